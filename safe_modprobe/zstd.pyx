# cython: language_level=3
"""Decompress zstd for `.ko.zst`. Python's standard library lacks zstd before 3.14, and libkmod2 depends on libzstd."""

import os

from libc.stdlib cimport free, malloc

cdef extern from "zstd.h" nogil:
    ctypedef struct ZSTD_DStream:
        pass
    ctypedef struct ZSTD_inBuffer:
        const void *src
        size_t size
        size_t pos
    ctypedef struct ZSTD_outBuffer:
        void *dst
        size_t size
        size_t pos
    ZSTD_DStream *ZSTD_createDStream()
    size_t ZSTD_freeDStream(ZSTD_DStream *stream)
    size_t ZSTD_decompressStream(ZSTD_DStream *stream, ZSTD_outBuffer *out, ZSTD_inBuffer *src)
    unsigned int ZSTD_isError(size_t code)
    const char *ZSTD_getErrorName(size_t code)

cdef enum:
    CHUNK = 1 << 18


def decompress(int source_fd, int target_fd):
    """Decompress all frames from one descriptor to the other. Return the number of bytes written.

    Raises OSError, and ValueError if the data is not zstd or ends in the middle of a frame.
    """
    cdef ZSTD_DStream *stream = ZSTD_createDStream()
    cdef char *buffer = <char *>malloc(CHUNK)
    cdef size_t left = 1  # ZSTD_decompressStream()'s result, which is 0 at the end of a frame
    cdef ZSTD_inBuffer src
    cdef ZSTD_outBuffer out
    cdef bytes chunk
    written = 0
    try:
        if stream is NULL or buffer is NULL:
            raise MemoryError
        while True:
            chunk = os.read(source_fd, CHUNK)
            if not chunk:
                break
            src.src, src.size, src.pos = <const char *>chunk, len(chunk), 0
            out.pos = out.size = CHUNK
            # After a full output buffer there may be more output without more input.
            while src.pos < src.size or out.pos == out.size:
                out.dst, out.size, out.pos = buffer, CHUNK, 0
                with nogil:
                    left = ZSTD_decompressStream(stream, &out, &src)
                if ZSTD_isError(left):
                    raise ValueError(ZSTD_getErrorName(left).decode())
                view = memoryview(buffer[: out.pos])
                while view:
                    count = os.write(target_fd, view)
                    written += count
                    view = view[count:]
                if left == 0 and src.pos == src.size:
                    break
        if left:
            raise ValueError("it ends in the middle of a frame")
        return written
    finally:
        free(buffer)
        ZSTD_freeDStream(stream)
