"""Whose --save it is: one job writes to it, and a start goes on with a run or begins one."""
