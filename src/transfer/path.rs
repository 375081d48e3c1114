//! Where in the graph a value was that cannot travel: `upvalue 'self' -> .conn`.

/// What the values of a packet are to the user, for messages.
#[derive(Clone, Copy)]
pub enum Roots {
    /// A function and its arguments.
    Task,
    /// A function and its completion.
    Completion,
    /// What a task returned.
    Results,
    /// The error value that a task raised, and its traceback.
    Error,
}

impl Roots {
    /// The name of the root with this index, from 0; empty for the function, which goes without saying.
    pub fn name(self, index: usize) -> String {
        match self {
            Roots::Task | Roots::Completion if index == 0 => String::new(),
            Roots::Task => format!("argument {index}"),
            Roots::Completion => "completion".to_string(),
            Roots::Results => format!("result {}", index + 1),
            Roots::Error => "error value".to_string(),
        }
    }
}

/// A table key that is a string: `.name` where Lua's syntax allows it, else `["a b"]`.
pub fn field(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    let mut characters = text.chars();
    let starts = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if starts && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        format!(".{text}")
    } else {
        format!("[{text:?}]")
    }
}

/// Joins the steps of a path and says what is there.
pub fn message(steps: &[String], what: &str) -> String {
    let path: Vec<&str> = steps.iter().map(String::as_str).filter(|step| !step.is_empty()).collect();
    if path.is_empty() { what.to_string() } else { format!("{}: {what}", path.join(" -> ")) }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn paths_read_like_lua() {
        assert_eq!(field(b"conn"), ".conn");
        assert_eq!(field(b"a b"), "[\"a b\"]");
        assert_eq!(field(b"1st"), "[\"1st\"]");
        let steps = [Roots::Task.name(0), "upvalue 'self'".into(), field(b"conn")];
        assert_eq!(
            message(&steps, "userdata cannot be sent"),
            "upvalue 'self' -> .conn: userdata cannot be sent"
        );
        assert_eq!(message(&[Roots::Results.name(1)], "x"), "result 2: x");
        assert_eq!(message(&[String::new()], "C function cannot be sent"), "C function cannot be sent");
    }
}
