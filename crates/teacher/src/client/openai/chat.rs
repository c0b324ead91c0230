//! A chat completion, and the label in it.

use serde::Deserialize;
use stillhouse_core::SoftLabel;
use stillhouse_core::label::LabelError;

#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    pub(super) choices: Vec<Choice>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    #[serde(default)]
    content: Option<Vec<Token>>,
}

#[derive(Debug, Deserialize)]
struct Token {
    token: String,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Deserialize)]
struct Alternative {
    token: String,
    logprob: f64,
}

#[derive(Deserialize)]
struct Named {
    class: String,
}

/// The letter that stands for a class: one token in every tokenizer.
pub(super) fn letter(class: usize) -> char {
    char::from(b'A' + class as u8)
}

/// The class that a token stands for, white space and quotation marks around it aside.
fn class_of(token: &str, classes: usize) -> Option<usize> {
    let token =
        token.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '*' | '.' | ':' | '('));
    (0..classes).find(|class| token.len() == 1 && token.starts_with(letter(*class)))
}

fn declined(reason: impl Into<String>) -> LabelError {
    let reason: String = reason.into();
    LabelError::Declined {
        reason: reason.chars().filter(|c| !c.is_control()).take(200).collect(),
    }
}

impl Choice {
    /// Why there is no class in it, if it says so itself.
    fn check_willing(&self, whole: bool) -> Result<(), LabelError> {
        if let Some(refusal) = self.message.refusal.as_deref().filter(|refusal| !refusal.is_empty()) {
            return Err(declined(refusal));
        }
        match self.finish_reason.as_deref() {
            Some("content_filter") => Err(declined("its content filter stopped it")),
            Some("length") if whole => Err(declined("its answer is longer than asked for")),
            _ => Ok(()),
        }
    }

    fn text(&self) -> &str {
        self.message.content.as_deref().unwrap_or_default().trim()
    }

    /// The one class that is named: by the JSON that the schema asks for, or, from a server that
    /// knows no schemas, by the whole answer.
    pub(super) fn label(&self, classes: &[String]) -> Result<SoftLabel, LabelError> {
        self.check_willing(true)?;
        let text = self.text();
        let json = text.trim_start_matches("```json").trim_matches('`').trim();
        let named = serde_json::from_str::<Named>(json).map(|named| named.class);
        let said = named.unwrap_or_else(|_| text.trim_matches(|c| matches!(c, '"' | '\'' | '`' | '.')).to_owned());
        let exact = classes.iter().position(|class| *class == said);
        let class = exact.or_else(|| {
            let alike = |class: &String| class.to_lowercase() == said.trim().to_lowercase();
            classes.iter().position(alike)
        });
        let class = class.ok_or_else(|| LabelError::NoSuchClass {
            found: said.chars().filter(|c| !c.is_control()).take(80).collect(),
            classes: classes.len(),
        })?;
        SoftLabel::one_hot(class, classes.len())
    }

    /// The probabilities of the letters at the first place where the answer is one of them.
    pub(super) fn probabilities(&self, classes: usize) -> Result<SoftLabel, LabelError> {
        // An answer that goes on after its letter is cut off on purpose.
        self.check_willing(false)?;
        let tokens = self.logprobs.as_ref().and_then(|logprobs| logprobs.content.as_deref());
        let tokens = tokens.ok_or_else(|| declined("its answer has no logprobs"))?;
        let deciding = tokens.iter().find(|token| class_of(&token.token, classes).is_some());
        let deciding = deciding.ok_or_else(|| LabelError::NoSuchClass {
            found: self.text().chars().filter(|c| !c.is_control()).take(80).collect(),
            classes,
        })?;
        of_alternatives(&deciding.top_logprobs, classes)
    }
}

/// Each class that is among the alternatives has the sum of their probabilities. Each that is not
/// has an equal share of what is missing to 1, but no more than the least probable alternative,
/// since it would have been told before that one. Then all are divided by their sum: what went to
/// tokens that are no class is left out.
fn of_alternatives(alternatives: &[Alternative], classes: usize) -> Result<SoftLabel, LabelError> {
    let mut seen = vec![None; classes];
    let mut least = f64::INFINITY;
    for alternative in alternatives {
        let probability = alternative.logprob.exp();
        least = least.min(probability);
        if let Some(class) = class_of(&alternative.token, classes) {
            *seen[class].get_or_insert(0.0) += probability;
        }
    }
    let told: f64 = seen.iter().flatten().sum();
    let unseen = seen.iter().filter(|seen| seen.is_none()).count();
    if unseen == classes {
        return Err(declined("its answer has no alternatives with their logprobs"));
    }
    let share = ((1.0 - told).max(0.0) / unseen.max(1) as f64).min(least);
    let whole: Vec<f64> = seen.into_iter().map(|seen| seen.unwrap_or(share)).collect();
    let sum: f64 = whole.iter().sum();
    let probabilities = whole.into_iter().map(|value| (value / sum) as f32).collect();
    SoftLabel::from_probabilities(probabilities, classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn choice(value: serde_json::Value) -> Choice {
        serde_json::from_value(value).unwrap()
    }

    fn saying(content: &str) -> Choice {
        choice(json!({ "message": { "content": content }, "finish_reason": "stop" }))
    }

    fn names() -> Vec<String> {
        ["cat", "dog", "Great Dane"].map(String::from).to_vec()
    }

    #[test]
    fn a_class_is_read_from_json_or_from_the_whole_answer() {
        for (content, class) in [
            (r#"{"class":"dog"}"#, 1),
            (r#" { "class" : "Great Dane" } "#, 2),
            ("```json\n{\"class\": \"cat\"}\n```", 0),
            ("dog", 1),
            ("\"great dane\".", 2),
        ] {
            assert_eq!(saying(content).label(&names()).unwrap().class(), class, "{content}");
        }
        for content in ["", "It is a dog, I think", r#"{"class":"bird"}"#, "[]"] {
            let error = saying(content).label(&names()).unwrap_err();
            assert!(matches!(error, LabelError::NoSuchClass { classes: 3, .. }), "{error}");
        }
    }

    #[test]
    fn an_answer_that_declines_says_why() {
        for (value, reason) in [
            (json!({ "message": { "refusal": "I can't help" } }), "I can't help"),
            (
                json!({ "message": { "content": "" }, "finish_reason": "content_filter" }),
                "content filter",
            ),
            (
                json!({ "message": { "content": "{\"cl" }, "finish_reason": "length" }),
                "longer than asked",
            ),
        ] {
            let error = choice(value).label(&names()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    fn logprobs(tokens: &[(&str, &[(&str, f64)])]) -> Choice {
        let content: Vec<_> = tokens
            .iter()
            .map(|(token, alternatives)| {
                let top: Vec<_> = alternatives
                    .iter()
                    .map(|(token, probability)| json!({ "token": token, "logprob": probability.ln() }))
                    .collect();
                json!({ "token": token, "logprob": 0.0, "top_logprobs": top })
            })
            .collect();
        choice(json!({
            "message": { "content": "A" }, "finish_reason": "length", "logprobs": { "content": content },
        }))
    }

    fn rounded(choice: &Choice, classes: usize) -> Vec<f32> {
        let label = choice.probabilities(classes).unwrap();
        label
            .probabilities()
            .iter()
            .map(|p| (p * 1000.0).round() / 1000.0)
            .collect()
    }

    #[test]
    fn letters_become_probabilities() {
        let whole = logprobs(&[("A", &[("A", 0.6), (" B", 0.2), ("B", 0.1), ("C", 0.1)])]);
        assert_eq!(rounded(&whole, 3), [0.6, 0.3, 0.1]);
        // What went to other tokens is left out.
        let other = logprobs(&[("A", &[("A", 0.4), ("The", 0.2), ("B", 0.4)])]);
        assert_eq!(rounded(&other, 2), [0.5, 0.5]);
        // The missing 0.1 is shared by the two that are not told.
        let missing = logprobs(&[("A", &[("A", 0.8), ("B", 0.1)])]);
        assert_eq!(rounded(&missing, 4), [0.8, 0.1, 0.05, 0.05]);
        // None of them can be more probable than the least that was told.
        let capped = logprobs(&[("A", &[("A", 0.59), ("The", 0.4), ("B", 0.01)])]);
        assert_eq!(rounded(&capped, 3), [0.967, 0.016, 0.016]);
    }

    #[test]
    fn the_first_token_that_is_a_letter_decides() {
        let late = logprobs(&[
            ("\"", &[("\"", 1.0)]),
            ("B", &[("B", 0.9), ("A", 0.1)]),
            ("A", &[("A", 1.0)]),
        ]);
        assert_eq!(rounded(&late, 2), [0.1, 0.9]);
        let none = logprobs(&[("The", &[("The", 1.0)])]);
        assert!(matches!(none.probabilities(2), Err(LabelError::NoSuchClass { .. })));
        assert!(matches!(saying("A").probabilities(2), Err(LabelError::Declined { .. })));
        let bare = logprobs(&[("A", &[])]);
        assert!(matches!(bare.probabilities(2), Err(LabelError::Declined { .. })));
    }
}
