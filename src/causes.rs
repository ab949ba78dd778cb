//! Errors in words.

/// An error and its causes in one line; what the one before it ended with is not said again.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let one = next.to_string();
        if !text.ends_with(&one) {
            text.push_str(": ");
            text.push_str(&one);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn every_cause_is_said_once() {
        let inner = || std::io::Error::other("the disk");
        assert_eq!(in_one_line(&Outer("read a", inner())), "read a: the disk");
        assert_eq!(in_one_line(&Outer("read a: the disk", inner())), "read a: the disk");
    }
}
