"""All that is about files for microcontrollers."""
