//! The binary. Everything is in the library of the same name, which tests and measurements use.

use std::process::ExitCode;

/// A server allocates and frees small values on several threads all day, which mimalloc does with
/// less memory left unused, and faster, than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quorate::run()
}
