//! The program `quorate-sim`; everything is in the library.

fn main() -> std::process::ExitCode {
    simulator::command_line::main()
}
