"""The program as one whom permissions hold, even where root starts it; Linux only."""

from __future__ import annotations

import ctypes
import os

if __name__ == "__main__":
    if os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3; this thread, and what it starts
        assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
    from swinclf.cli.app import main

    main()
