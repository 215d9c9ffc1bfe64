"""The PTX that Triton compiles, executed on the CPU: what a GPU would be given, without one.

Triton's interpreter runs a kernel's source. This runs what the compiler made of it, instruction by
instruction, for all threads of some programs at once, and holds every access to the tensors that
the launch was given. `parse` reads the text, `machine` runs threads, `values`, `memory`,
`arithmetic` and `warps` say what instructions do, `launches` puts it where kernels are launched.
"""
