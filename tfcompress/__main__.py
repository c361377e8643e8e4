"""python -m tfcompress"""

from tfcompress.cli import main

main()
