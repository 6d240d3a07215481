//! The host: kernels.cu as a library, compiled once a test run, and pages that become memory when they are touched.

use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::path::Path;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::OnceLock;

use crate::launch::{THREADS, Work, names};

type Kernel = unsafe extern "C" fn(*const c_void);
type ShimLaunch =
    unsafe extern "C" fn(Kernel, *const c_void, c_uint, c_uint, bool) -> *const c_char;

pub fn allocate(bytes: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, of no file.
    let start = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED, "no {bytes} bytes of address space");
    start.cast()
}

pub fn release(start: *mut u8, bytes: usize) {
    // SAFETY: the mapping that `allocate` made.
    let released = unsafe { libc::munmap(start.cast(), bytes) };
    assert_eq!(released, 0);
}

/// The handle of the loaded library, which stays loaded.
fn library() -> usize {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("libkernels.so");
        compile(&path);
        let path = CString::new(path.to_str().expect("UTF-8")).expect("a path");
        // SAFETY: the library is ours and has no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "the compiled kernels do not load");
        handle as usize
    })
}

fn compile(to: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut command = Command::new(&compiler);
    command.args(["-x", "c++", "-std=c++17", "-O1", "-shared", "-fPIC"]);
    command.args(["-fvisibility=hidden", "-fno-strict-aliasing"]);
    // as nvcc: products and sums are rounded one by one
    command.arg("-ffp-contract=off");
    // an access that a card would refuse ends the process here too
    command.args(["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]);
    command
        .arg("-include")
        .arg(root.join("tests/cuda_kernels/shim.h"));
    command.arg(root.join("src/engine/cuda/device/kernels.cu"));
    command.arg("-o").arg(to);
    let output = command.output().unwrap_or_else(|e| {
        panic!(
            "this test compiles the CUDA kernels with a C++ compiler, and {compiler:?} cannot be run: {e}; \
             install g++ or clang, or set CXX"
        )
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{said}");
}

fn symbol(name: &str) -> *mut c_void {
    let symbol = CString::new(name).expect("a name");
    // SAFETY: the handle is of a loaded library.
    let address = unsafe { libc::dlsym(library() as *mut c_void, symbol.as_ptr()) };
    assert!(!address.is_null(), "kernels.cu has no {name}");
    address
}

/// Does `work` on the host, the threads in ascending or descending order; returns the kernel's name.
pub fn run<W: Work>(work: &W, descending: bool) -> &'static str {
    let launch = work.launch().expect("work that fits");
    // SAFETY: KERNEL defines NAME_size as a size_t.
    let size = unsafe { *symbol(&format!("{}_size", launch.kernel)).cast::<usize>() };
    assert_eq!(size, size_of::<W::Arguments>(), "of {}", launch.kernel);
    let (kernel, entry) = (symbol(launch.kernel), symbol("shim_launch"));
    // SAFETY: the types are those that shim.h declares, the arguments those that the kernel takes, by the size at least;
    // the addresses in them are of buffers that the caller holds.
    let wrong = unsafe {
        let kernel = std::mem::transmute::<*mut c_void, Kernel>(kernel);
        let entry = std::mem::transmute::<*mut c_void, ShimLaunch>(entry);
        let arguments = (&raw const launch.arguments).cast();
        entry(kernel, arguments, launch.blocks, THREADS, descending)
    };
    if !wrong.is_null() {
        // SAFETY: a literal of shim.h.
        let wrong = unsafe { CStr::from_ptr(wrong) };
        panic!("{wrong:?}, in {work:?}");
    }
    launch.kernel
}

#[test]
fn every_kernel_that_is_named_exists() {
    let names: Vec<_> = names().collect();
    assert_eq!(names.len(), 5 * 6 + 3 + 1);
    for name in names {
        symbol(name);
    }
}
