//! Turns a parser's complaint into one that names the nearest known word.

/// Distance up to which a known word is worth suggesting.
const NEAR: f64 = 0.7;

/// The known word nearest to the unknown one that `message` complains about (`unknown field` or
/// `unknown variant`, as serde words it, with or without quotes around the known ones).
pub(super) fn nearest(message: &str) -> Option<&str> {
    let complaint = message
        .find("unknown field ")
        .or_else(|| message.find("unknown variant "))?;
    let (unknown, known) = message[complaint..].lines().next()?.split_once(", expected ")?;
    let unknown = unknown.split_whitespace().nth(2)?.trim_matches('`').to_lowercase();
    let words = known
        .strip_prefix("one of ")
        .unwrap_or(known)
        .split([' ', ',', '`'])
        .filter(|word| !matches!(*word, "" | "or" | "at" | "line" | "column"));
    nearest_of(&unknown, words)
}

/// The word of `known` that is nearest to `unknown`, if any is near.
pub(super) fn nearest_of<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    known
        .map(|word| (strsim::jaro_winkler(&unknown, &word.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_of_the_pen_finds_its_word() {
        let message = "unknown field `epoch`, expected one of `epochs`, `batch`, `seed` at line 3";
        assert_eq!(nearest(message), Some("epochs"));
        let message = "line 1: unknown field `epoch`, expected one of epochs, batch";
        assert_eq!(nearest(message), Some("epochs"));
        let message = "unknown field `ona`, expected one of `architecture`, `one`";
        assert_eq!(nearest(message), Some("one"));
        let message = "spec.kind: unknown variant `leastConfidence`, expected `least-confidence` or `margin`";
        assert_eq!(nearest(message), Some("least-confidence"));
    }

    #[test]
    fn nothing_near_is_nothing_said() {
        assert_eq!(nearest("unknown field `zzz`, expected `epochs` or `batch`"), None);
        assert_eq!(nearest("missing field `url`"), None);
    }
}
