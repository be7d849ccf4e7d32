"""Patches for Jittor's sources: the exact text of a release and its replacement.

The text of a patch occurs exactly once in its file. A release with other text is not patched.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One replacement in one file.

    Attributes:
        file: The file, relative to the folder that contains the package `jittor`.
        old: The text to replace, which occurs exactly once.
        new: The replacement.
    """

    file: str
    old: str
    new: str


NUMPY2 = (
    # Jittor declares NumPy's array descriptor itself. NumPy 2 has wider fields in another order
    # (`_PyArray_DescrNumPy2` in its `ndarraytypes.h`); fields after `alignment` are not used.
    Patch(
        "jittor/src/pyjt/numpy.h",
        """\
    char byteorder;
    char flags;
    int type_num;
    int elsize;
    int alignment;
    char* subarray;
    PyObject *fields;
    PyObject *names;
};
""",
        """\
    char byteorder;
    char former_flags;
    int type_num;
    unsigned long long flags;
    Py_ssize_t elsize;
    Py_ssize_t alignment;
};
""",
    ),
    Patch("jittor/src/pyjt/numpy.cc", '"numpy.core.multiarray"', '"numpy._core.multiarray"'),
    # The only function used by Jittor whose position in the table of the C API changed.
    Patch("jittor/src/pyjt/numpy.cc", "fill(PyArray_CopyInto, 82);", "fill(PyArray_CopyInto, 50);"),
)
"""Make Jittor 1.3.11 read the arrays of NumPy 2, and no longer those of NumPy 1."""

PYTHON313 = (
    # Since Python 3.13 a name bound by `exec` does not appear in `locals()` (PEP 667).
    Patch("jittor/compiler.py", "mod = locals()[gen_name]", "mod = sys.modules[gen_name]"),
    Patch("jittor_utils/__init__.py", "mod = locals()[hash]", "mod = sys.modules[hash]"),
)
"""Make Jittor 1.3.11 find the modules that it compiled; this also works with older Pythons."""

CUDA13 = (
    # `cudaDeviceProp` lost `computeMode` and `clockRate`, which are now device attributes.
    Patch(
        "jittor/extern/cuda/inc/helper_cuda.h",
        """\
// General GPU Device CUDA Initialization
inline int gpuDeviceInit(int devID) {
""",
        """\
inline int deviceAttribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// General GPU Device CUDA Initialization
inline int gpuDeviceInit(int devID) {
""",
    ),
    Patch(
        "jittor/extern/cuda/inc/helper_cuda.h",
        "if (deviceProp.computeMode == cudaComputeModeProhibited) {",
        "if (deviceAttribute(cudaDevAttrComputeMode, devID) == cudaComputeModeProhibited) {",
    ),
    Patch(
        "jittor/extern/cuda/inc/helper_cuda.h",
        "if (deviceProp.computeMode != cudaComputeModeProhibited) {",
        "if (deviceAttribute(cudaDevAttrComputeMode, current_device) != cudaComputeModeProhibited) {",
    ),
    Patch(
        "jittor/extern/cuda/inc/helper_cuda.h",
        "        (deviceProp.computeMode != cudaComputeModeProhibited)) {",
        "        (deviceAttribute(cudaDevAttrComputeMode, current_device) != cudaComputeModeProhibited)) {",
    ),
    Patch(
        "jittor/extern/cuda/inc/helper_cuda.h",
        "sm_per_multiproc * deviceProp.clockRate;",
        "sm_per_multiproc * deviceAttribute(cudaDevAttrClockRate, current_device);",
    ),
    # NPP, an image library, is included only for eight constants, and PyTorch does not install it.
    Patch(
        "jittor/src/misc/cuda_limits.h",
        """\
#ifdef IS_CUDA
#include <npp.h>
#include <math_constants.h>
#else
#include <limits>
""",
        """\
#include <math_constants.h>
""",
    ),
    Patch(
        "jittor/src/misc/cuda_limits.h",
        """\
#define     CUDART_INF_F  std::numeric_limits<float>::infinity()
#define     CUDART_INF    std::numeric_limits<double>::infinity()
#endif
""",
        "",
    ),
    # CUB in CUDA 13 needs C++17; the second patch removes a switch back to C++14.
    Patch(
        "jittor/compiler.py",
        '\ncc_flags += " -Wall -Wno-unknown-pragmas -std=c++14 -fPIC "',
        '\ncc_flags += " -Wall -Wno-unknown-pragmas -std=c++17 -fPIC "',
    ),
    Patch(
        "jittor/compiler.py",
        'nvcc_flags = nvcc_flags.replace("-std=c++17", "-std=c++14 -Xcompiler -std:c++14")',
        "pass",
    ),
    # Newer GPUs cannot run machine code for sm_90; 121 is the newest that CUDA 13 supports.
    Patch("jittor/compiler.py", "    max_arch = 90\n", "    max_arch = 121\n"),
    # The networks here use neither FFTs nor sparse matrices.
    Patch(
        "jittor/compile_extern.py",
        'libs = ["cublas", "cudnn", "curand", "cufft", "cusparse"]',
        'libs = ["cublas", "cudnn", "curand"]',
    ),
    # cuDNN 9 loads its component libraries itself, and they have other names.
    Patch(
        "jittor/compile_extern.py",
        'libs = ["libcudnn_ops_infer.so", "libcudnn_ops_train.so", "libcudnn_cnn_infer.so", '
        '"libcudnn_cnn_train.so"]',
        "libs = []",
    ),
    # cuDNN 9 replaced the functions for recurrent networks, but not those for convolutions. CUB lost the
    # iterators and functions that CUDA's standard library now provides; Jittor has another version of this
    # operator, without CUB.
    Patch(
        "jittor/compile_extern.py",
        """\
    culib_src_dir = os.path.join(jittor_path, "extern", "cuda", lib_name)
    culib_src_files = []
    for r, _, f in os.walk(culib_src_dir):
        for fname in f:
""",
        """\
    culib_src_dir = os.path.join(jittor_path, "extern", "cuda", lib_name)
    culib_src_files = []
    for r, _, f in os.walk(culib_src_dir):
        for fname in f:
            if "rnn" in fname or "cub_where" in fname:
                continue
""",
    ),
    Patch("jittor/other/code_softmax.py", "cub::Max()", "cuda::maximum<>()"),
)
"""Make Jittor 1.3.11 compile and link with CUDA 13 and cuDNN 9, without its operators for recurrent networks,
FFTs and sparse matrices."""
