"""The running system. Read left to right, as the data flows.

source -> detect -> track -> embed -> aggregate -> match -> publish
"""
