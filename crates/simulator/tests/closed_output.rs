//! `quorate-sim … | head` ends as any program does there: quietly.

#![allow(clippy::disallowed_methods, reason = "starts a process")]
#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::process::Command;

#[test]
fn a_reader_who_has_gone_ends_the_program_without_a_word() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut program = Command::new(env!("CARGO_BIN_EXE_quorate-sim"));
    let ended = program.args(["mutants", "--list"]).stdout(writer);
    let ended = ended.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert_eq!(ended.status.code(), Some(141));
}
