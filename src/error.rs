//! The one error type: what this module itself can refuse or fail at.
//!
//! Errors of user code are values in packets and never pass through here. A [`Code`] is stable: programs
//! compare `err.code` with its name.

use std::fmt;

/// Why the module refused or gave up; `err.code` in Lua.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Nothing happened within the time that the caller gave.
    Timeout,
    /// The pool takes no task now: it is full, broken or shut down.
    Rejected,
    /// The task was cancelled before it ended.
    Cancelled,
    /// The pool was killed while the task waited or ran.
    Killed,
    /// The module or the state is closing and takes no work.
    Closed,
    /// A value cannot travel, or a packet cannot be read.
    Transfer,
    /// Going on would wait for itself.
    Deadlock,
    /// Memory ran out, or a limit was reached.
    Memory,
    /// No pool has that name or id.
    NoPool,
    /// The task was in another process when it ended, or its worker is gone.
    Lost,
    /// This host or Lua cannot do it.
    Unsupported,
}

impl Code {
    /// The name that Lua sees.
    pub fn name(self) -> &'static str {
        match self {
            Code::Timeout => "timeout",
            Code::Rejected => "rejected",
            Code::Cancelled => "cancelled",
            Code::Killed => "killed",
            Code::Closed => "closed",
            Code::Transfer => "transfer",
            Code::Deadlock => "deadlock",
            Code::Memory => "memory",
            Code::NoPool => "nopool",
            Code::Lost => "lost",
            Code::Unsupported => "unsupported",
        }
    }
}

/// A failure of the module: a code that programs test and a text that people read.
#[derive(Clone, Debug)]
pub struct Error {
    /// The stable part.
    pub code: Code,
    /// One line, without the code and without a final full stop.
    pub text: String,
}

impl Error {
    /// An error with a fixed or formatted text.
    pub fn new(code: Code, text: impl Into<String>) -> Error {
        Error { code, text: text.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.text)
    }
}

impl std::error::Error for Error {}

/// A result whose failure is the module's own.
pub type Result<T> = std::result::Result<T, Error>;
