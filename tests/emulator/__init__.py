"""Compiled kernels without a GPU: a stub of libcuda for Triton to launch through, and an emulator of the PTX that it launches.

    libcuda.c, driver.py    the stub, and Triton's own driver on top of it
    ptx.py                  PTX as instructions and operands
    arithmetic.py           what instructions compute from registers
    memory.py               global and shared memory: bounds, alignment, races
    warp.py                 what the threads of a warp do together: shuffles, matrices
    flow.py                 the order in which threads that went different ways meet again
    operands.py             registers, immediates and parameters, in all threads
    machine.py              jumps, barriers, and all of the above for a whole launch
    device.py               CPU tensors that stand for CUDA's, for the package's own tests

What it cannot show: what ptxas makes of the PTX, weak memory order, and speed.
"""
