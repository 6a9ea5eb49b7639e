//! Writes a history, line by line, as it happens.

use std::io::{self, Write};

use super::{Event, Header};

/// Writes lines to `sink`, which is given by the caller: this crate opens no file.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn new(mut sink: W, header: &Header) -> io::Result<Writer<W>> {
        serde_json::to_writer(&mut sink, header)?;
        sink.write_all(b"\n")?;
        Ok(Writer { sink })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        serde_json::to_writer(&mut self.sink, event)?;
        self.sink.write_all(b"\n")
    }

    /// Has the sink pass on what it holds back.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    /// Gives the sink back, flushed.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(mut self) -> io::Result<W> {
        self.sink.flush()?;
        Ok(self.sink)
    }
}
