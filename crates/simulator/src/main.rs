//! The program `quorate-sim`; everything is in the library.

/// A run allocates and frees without end on one thread; this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    simulator::command_line::main()
}
