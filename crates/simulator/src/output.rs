//! What the program says on its standard output, to somebody who may stop listening.
//!
//! `println!` panics when it cannot write. `quorate-sim … | head` is no reason for that: whoever
//! reads has had enough, and the program ends, without a word and as one that SIGPIPE ends.
//! That signal itself stays ignored: writing to a connection whose other end has gone raises it
//! too, and is not the end of anything.

use std::fmt::Arguments;
use std::io::{self, Write as _};

/// The status of a program that is ended by SIGPIPE, as a shell says it: 128 and its number.
const NOBODY_READS: i32 = 128 + 13;

/// Writes a text. Ends the program if nobody reads it any more.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "it talks to a person, and ends the program"
)]
pub(crate) fn write(text: Arguments<'_>) {
    let mut output = io::stdout().lock();
    if let Err(error) = output.write_fmt(text).and_then(|()| output.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(NOBODY_READS);
        }
        eprintln!("quorate-sim: the output cannot be written: {error}");
        std::process::exit(1);
    }
}

/// `print!` of the standard library, for whom a reader who has gone is no bug.
macro_rules! print {
    ($($text:tt)*) => {
        $crate::output::write(format_args!($($text)*))
    };
}

/// `println!`, likewise.
macro_rules! println {
    ($($text:tt)*) => {
        $crate::output::write(format_args!("{}\n", format_args!($($text)*)))
    };
}
