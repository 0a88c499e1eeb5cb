"""The survey of request_module(): which names a kernel's sources can make it ask for, and who is asked before."""
