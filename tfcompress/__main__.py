"""python -m tfcompress"""

from tfcompress.cli import main

if __name__ == "__main__":
    main()
