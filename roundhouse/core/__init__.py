"""The words of the house: plain values, pure functions, one error tree. No I/O, no clock, no logging."""
