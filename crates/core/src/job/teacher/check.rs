//! Every check of a teacher that needs nothing but the job's text.

use super::{AnswerSpec, AuthSpec, Encoding, Protocol, Response, TeacherSpec, template};
use crate::job::JobError;
use crate::job::check::{require, value};
use crate::job::spec::Spec;

/// A u32 of images times 32 KB each is far past any memory; this keeps arithmetic in range too.
const MAX_TEACHER_BATCH: u32 = 4096;

/// Most classes, as in `spec.student.classes`.
const MAX_CLASSES: usize = 100_000;

/// Letters that are one token each in every tokenizer.
const MAX_LETTERS: usize = 26;

/// Headers that the transport writes itself.
const RESERVED: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "upgrade",
    "accept-encoding",
    "idempotency-key",
    "x-request-id",
    "inference-header-content-length",
];

/// Headers whose values are secrets.
const SECRET: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"];

/// How to mend a wrong `field`, where its message does not say it.
pub(in crate::job) fn hint(field: &str) -> Option<&'static str> {
    match field {
        "spec.teacher.batch" => Some("leave spec.teacher.batch out to take the protocol's own"),
        "spec.teacher.headers" => Some("a secret goes into a file or a variable that spec.teacher.auth names"),
        "spec.teacher.auth" => Some("for example auth: { environment: TEACHER_TOKEN }"),
        "spec.teacher.request" => Some("docs/teachers.md has a template that works"),
        _ => None,
    }
}

/// Checks the teacher of `spec`.
pub(in crate::job) fn check(spec: &Spec) -> Result<(), JobError> {
    let teacher = &spec.teacher;
    let http = teacher.url.starts_with("http://") || teacher.url.starts_with("https://");
    require(
        http,
        "spec.teacher.url",
        "an address that begins with http:// or https://",
        &teacher.url,
    )?;
    check_names(teacher)?;
    check_limits(teacher)?;
    check_classes(teacher, spec.student.classes)?;
    check_keys(teacher)?;
    check_response(teacher)?;
    check_batch(teacher)?;
    check_headers(teacher)?;
    teacher.auth.as_ref().map_or(Ok(()), check_auth)
}

fn check_names(teacher: &TeacherSpec) -> Result<(), JobError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let segment = |text: &str| !text.is_empty() && text.chars().all(plain) && text != "." && text != "..";
    let visible = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    let (sound, expected) = match teacher.protocol {
        Protocol::OpenInference | Protocol::OpenInferenceGrpc => {
            (segment(&teacher.model), "letters, digits, '.', '_' and '-'")
        }
        Protocol::Openai | Protocol::Json => (visible(&teacher.model), "a name without spaces"),
    };
    require(sound, "spec.teacher.model", expected, &teacher.model)?;
    if let Some(version) = &teacher.version {
        require(
            segment(version),
            "spec.teacher.version",
            "letters, digits, '.', '_' and '-'",
            version,
        )?;
    }
    if let Some(fingerprint) = &teacher.fingerprint {
        let sound = (1..=200).contains(&fingerprint.len()) && !fingerprint.contains(char::is_control);
        require(sound, "spec.teacher.fingerprint", "1 to 200 characters", fingerprint)?;
    }
    Ok(())
}

fn check_limits(teacher: &TeacherSpec) -> Result<(), JobError> {
    require(
        (1..=MAX_TEACHER_BATCH).contains(&teacher.batch_size()),
        "spec.teacher.batch",
        "1 to 4096",
        teacher.batch_size(),
    )?;
    require(
        (1..=256).contains(&teacher.concurrency),
        "spec.teacher.concurrency",
        "1 to 256",
        teacher.concurrency,
    )?;
    let seconds = teacher.timeout_seconds;
    require(
        (0.01..=3600.0).contains(&seconds),
        "spec.teacher.timeoutSeconds",
        "0.01 to 3600",
        seconds,
    )?;
    let patience = teacher.patience_seconds;
    require(
        (0.0..=30.0 * 86_400.0).contains(&patience),
        "spec.teacher.patienceSeconds",
        "0 to 2592000 (30 days)",
        patience,
    )?;
    if let Some(rate) = teacher.rate_per_second {
        require(
            rate.is_finite() && rate > 0.0,
            "spec.teacher.ratePerSecond",
            "a number above 0",
            rate,
        )?;
    }
    if let Some(price) = teacher.price_per_query {
        require(
            price.is_finite() && price >= 0.0,
            "spec.teacher.pricePerQuery",
            "a number of at least 0",
            price,
        )?;
    }
    Ok(())
}

fn check_classes(teacher: &TeacherSpec, student: Option<u32>) -> Result<(), JobError> {
    const FIELD: &str = "spec.teacher.classNames";
    let names = &teacher.class_names;
    if names.is_empty() {
        let needed = match (teacher.protocol, teacher.response) {
            (Protocol::Openai, _) => true,
            (Protocol::Json, Response::TopK(_) | Response::Label) => student.is_none(),
            _ => false,
        };
        let expected = "the names of the classes, in the order of the student's";
        return require(!needed, FIELD, expected, "none");
    }
    let expected = format!("2 to {MAX_CLASSES} names");
    require((2..=MAX_CLASSES).contains(&names.len()), FIELD, expected, names.len())?;
    let sound =
        |name: &String| (1..=200).contains(&name.len()) && name.trim() == name && !name.contains(char::is_control);
    if let Some(bad) = names.iter().find(|name| !sound(name)) {
        return Err(value(
            FIELD,
            "names of 1 to 200 characters without spaces around",
            format!("{bad:?}"),
        ));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(value(FIELD, "each name once", format!("{:?} twice", twice[0])));
    }
    let expected = format!(
        "as many names as spec.student.classes ({})",
        student.unwrap_or_default()
    );
    require(
        student.is_none_or(|classes| classes as usize == names.len()),
        FIELD,
        expected,
        names.len(),
    )
}

/// Keys that another protocol understands are mistakes.
fn check_keys(teacher: &TeacherSpec) -> Result<(), JobError> {
    let protocol = teacher.protocol;
    let found = protocol.name();
    let only = |given: bool, field, owner: Protocol| {
        let expected = format!("spec.teacher.protocol {}", owner.name());
        require(!given || protocol == owner, field, expected, found)
    };
    only(
        teacher.encoding != Encoding::Auto,
        "spec.teacher.encoding",
        Protocol::OpenInference,
    )?;
    only(teacher.prompt.is_some(), "spec.teacher.prompt", Protocol::Openai)?;
    only(teacher.request.is_some(), "spec.teacher.request", Protocol::Json)?;
    only(teacher.answer.is_some(), "spec.teacher.answer", Protocol::Json)?;
    require(
        protocol != Protocol::Openai || teacher.version.is_none(),
        "spec.teacher.version",
        "none: under openai the model's name says it",
        teacher.version.as_deref().unwrap_or_default(),
    )?;
    if protocol == Protocol::Json {
        check_template(teacher)?;
        check_answer(teacher)?;
    }
    Ok(())
}

fn check_template(teacher: &TeacherSpec) -> Result<(), JobError> {
    const FIELD: &str = "spec.teacher.request";
    let Some(request) = &teacher.request else {
        return Err(value(FIELD, "the body of a request, with placeholders", "none"));
    };
    let room = template::survey(request).map_err(|(cause, nearest)| match nearest {
        Some(_) => JobError::Syntax {
            message: format!("{FIELD}: {cause}"),
            nearest,
        },
        None => value(FIELD, "a sound template", cause),
    })?;
    let expected = "a placeholder for the image, such as {{image.png.base64}}";
    require(room.one || room.many, FIELD, expected, "none")
}

fn check_answer(teacher: &TeacherSpec) -> Result<(), JobError> {
    const FIELD: &str = "spec.teacher.answer";
    let none = AnswerSpec::default();
    let AnswerSpec {
        images,
        values,
        label,
        items,
        class,
        score,
    } = teacher.answer.as_ref().unwrap_or(&none);
    for pointer in [images, values, label, items, class, score].into_iter().flatten() {
        let sound = pointer.is_empty() || pointer.starts_with('/');
        require(sound, FIELD, "JSON pointers, empty or beginning with '/'", pointer)?;
    }
    let given = [values, label, items, class, score].map(Option::is_some);
    let (sound, expected) = match teacher.response {
        Response::Probabilities | Response::Logits => (given == [true, false, false, false, false], "`values`"),
        Response::Label => (given == [false, true, false, false, false], "`label`"),
        Response::TopK(_) => (
            matches!(given, [false, false, _, true, true]),
            "`class` and `score`, and perhaps `items`",
        ),
    };
    let response = teacher.response;
    let expected = format!("{expected} (and perhaps `images`) for response {response}");
    let names = ["values", "label", "items", "class", "score"];
    let found: Vec<&str> = names
        .into_iter()
        .zip(given)
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
    let found = if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    };
    require(sound, FIELD, expected, found)
}

fn check_response(teacher: &TeacherSpec) -> Result<(), JobError> {
    const FIELD: &str = "spec.teacher.response";
    if let Response::TopK(k) = teacher.response {
        let most = match teacher.class_names.len() {
            0 => MAX_CLASSES as u32,
            classes => classes as u32,
        };
        let expected = format!("topK of 1 to {most} classes");
        require((1..=most).contains(&k), FIELD, expected, k)?;
    }
    if teacher.protocol != Protocol::Openai {
        return Ok(());
    }
    let letters = teacher.class_names.len() <= MAX_LETTERS;
    match teacher.response {
        Response::Label => Ok(()),
        Response::Probabilities => require(
            letters,
            FIELD,
            format!("label, since probabilities come from one letter a class and there are {MAX_LETTERS}"),
            format!("probabilities of {} classes", teacher.class_names.len()),
        ),
        other @ (Response::Logits | Response::TopK(_)) => {
            Err(value(FIELD, "probabilities or label under protocol openai", other))
        }
    }
}

fn check_batch(teacher: &TeacherSpec) -> Result<(), JobError> {
    let expected = match teacher.protocol {
        Protocol::Openai => "1: a chat is about one image",
        Protocol::OpenInference | Protocol::OpenInferenceGrpc | Protocol::Json => {
            "1: spec.teacher.request or spec.teacher.answer.images has room for one image"
        }
    };
    let batch = teacher.batch_size();
    require(
        batch == 1 || !teacher.takes_one_image(),
        "spec.teacher.batch",
        expected,
        batch,
    )
}

/// A header's name, as RFC 9110 has it.
fn is_token(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(plain)
}

fn check_headers(teacher: &TeacherSpec) -> Result<(), JobError> {
    const FIELD: &str = "spec.teacher.headers";
    for (name, text) in &teacher.headers {
        let lower = name.to_ascii_lowercase();
        let free = is_token(name) && !RESERVED.contains(&lower.as_str());
        require(free, FIELD, "names that are free to use", name)?;
        let own = teacher
            .auth
            .as_ref()
            .is_some_and(|auth| auth.header.eq_ignore_ascii_case(name));
        let secret = own || SECRET.contains(&lower.as_str());
        require(!secret, FIELD, "nothing secret", name)?;
        let visible = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        require(visible, FIELD, "values of visible ASCII", name)?;
    }
    Ok(())
}

fn check_auth(auth: &AuthSpec) -> Result<(), JobError> {
    const FIELD: &str = "spec.teacher.auth";
    let free = is_token(&auth.header) && !RESERVED.contains(&auth.header.to_ascii_lowercase().as_str());
    require(free, FIELD, "the name of a header", &auth.header)?;
    let scheme = auth.scheme();
    require(
        scheme.is_empty() || is_token(scheme),
        FIELD,
        "a scheme of one word",
        scheme,
    )?;
    let found = match (&auth.file, &auth.environment) {
        (Some(_), Some(_)) => "both",
        (None, None) => "neither",
        _ => return Ok(()),
    };
    Err(value(FIELD, "one of file and environment", found))
}

#[cfg(test)]
mod tests {
    use crate::Job;
    use crate::job::{JobError, Protocol, Response};

    fn job(teacher: &str) -> Result<Job, JobError> {
        Job::parse(&format!(
            "apiVersion: stillhouse.dev/v1alpha1\nkind: DistillJob\nmetadata: {{ name: a }}\nspec:\n  \
             images: {{ source: idx, path: a.gz }}\n  student: {{ architecture: lenet5 }}\n  \
             budget: {{ queries: 10, perRound: 1 }}\n  teacher: {teacher}\n"
        ))
    }

    fn refused(teacher: &str) -> (String, String) {
        let error = job(teacher).expect_err(teacher);
        (error.to_string(), error.hint().unwrap_or_default())
    }

    const OIP: &str = r#"protocol: open-inference, url: "http://a", model: m"#;
    const OPENAI: &str = r#"protocol: openai, url: "https://a", model: org/m:1, classNames: [cat, dog]"#;
    const JSON: &str = r#"protocol: json, url: "https://a", model: m"#;

    #[test]
    fn each_protocol_has_a_batch_of_its_own() {
        let batch = |teacher: &str| job(teacher).expect("valid").spec.teacher.batch_size();
        assert_eq!(batch(&format!("{{ {OIP} }}")), 64);
        assert_eq!(batch(&format!("{{ {OIP}, batch: 7 }}")), 7);
        assert_eq!(batch(&format!("{{ {OPENAI} }}")), 1);
        let one = r#"request: { x: "{{image}}" }, answer: { values: /p }"#;
        assert_eq!(batch(&format!("{{ {JSON}, {one} }}")), 1);
        let many = r#"request: { x: "{{images}}" }, answer: { images: /p, values: "" }"#;
        assert_eq!(batch(&format!("{{ {JSON}, {many} }}")), 64);
        let (error, hint) = refused(&format!("{{ {OPENAI}, batch: 2 }}"));
        assert!(
            error.starts_with("spec.teacher.batch: expected 1: a chat") && hint.contains("leave"),
            "{error} {hint}"
        );
        let (error, _) = refused(&format!("{{ {JSON}, {one}, batch: 2 }}"));
        assert!(error.contains("room for one image"), "{error}");
        let (error, _) = refused(&format!("{{ {OIP}, batch: 0 }}"));
        assert!(error.starts_with("spec.teacher.batch: expected 1 to 4096"), "{error}");
    }

    #[test]
    fn every_response_has_its_words() {
        let response = |text: &str| {
            let job = job(&format!("{{ {OIP}, response: {text} }}"));
            job.map(|job| job.spec.teacher.response)
        };
        assert_eq!(response("logits"), Ok(Response::Logits));
        assert_eq!(response("label"), Ok(Response::Label));
        assert_eq!(response("{ topK: 5 }"), Ok(Response::TopK(5)));
        let error = response("lable").expect_err("unknown");
        assert_eq!(error.hint().as_deref(), Some("did you mean `label`?"), "{error}");
    }

    #[test]
    fn what_does_not_fit_a_protocol_is_named() {
        for (teacher, error) in [
            (
                format!("{OIP}, prompt: x"),
                "spec.teacher.prompt: expected spec.teacher.protocol openai",
            ),
            (
                format!("{OIP}, request: {{}}"),
                "spec.teacher.request: expected spec.teacher.protocol json",
            ),
            (format!("{OPENAI}, encoding: json"), "spec.teacher.encoding: expected"),
            (format!("{OPENAI}, version: 1"), "spec.teacher.version: expected none"),
            (
                format!("{OPENAI}, response: logits"),
                "spec.teacher.response: expected probabilities or label",
            ),
            (
                OPENAI.replace("[cat, dog]", "[cat, cat]"),
                "spec.teacher.classNames: expected each name once",
            ),
            (
                OPENAI.replace("[cat, dog]", "[]"),
                "spec.teacher.classNames: expected the names",
            ),
            (
                format!("{OIP}, headers: {{ Cookie: a }}"),
                "spec.teacher.headers: expected nothing secret",
            ),
            (
                format!("{OIP}, headers: {{ host: a }}"),
                "spec.teacher.headers: expected names",
            ),
            (
                format!("{OIP}, auth: {{ }}"),
                "spec.teacher.auth: expected one of file and environment, found neither",
            ),
            (
                format!("{OIP}, response: {{ topK: 0 }}"),
                "spec.teacher.response: expected topK of 1",
            ),
            (JSON.to_owned(), "spec.teacher.request: expected the body"),
            (
                format!("{JSON}, request: {{ a: 1 }}"),
                "spec.teacher.request: expected a placeholder",
            ),
            (
                format!("{JSON}, request: \"{{{{image}}}}\", answer: {{ label: /a }}"),
                "spec.teacher.answer: expected `values`",
            ),
            (
                format!("{JSON}, request: \"{{{{image}}}}\", answer: {{ values: a }}"),
                "spec.teacher.answer: expected JSON pointers",
            ),
            (
                format!("{JSON}, request: \"{{{{image}}}}\", response: label, answer: {{ label: /a }}"),
                "spec.teacher.classNames: expected the names",
            ),
        ] {
            let (found, _) = refused(&format!("{{ {teacher} }}"));
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn a_wrong_word_names_the_nearest() {
        for (teacher, nearest) in [
            (format!("{OIP}, clasNames: [a, b]"), "classNames"),
            (
                OIP.replace("open-inference", "open-inference-rpc"),
                "open-inference-grpc",
            ),
            (format!("{OIP}, encoding: binry"), "binary"),
            (format!("{OIP}, auth: {{ enviroment: A }}"), "environment"),
            (
                format!("{JSON}, request: \"{{{{image.png.bas64}}}}\", answer: {{ values: /a }}"),
                "image.png.base64",
            ),
        ] {
            let (error, hint) = refused(&format!("{{ {teacher} }}"));
            assert_eq!(hint, format!("did you mean `{nearest}`?"), "{error}");
        }
    }

    #[test]
    fn the_way_to_a_teacher_may_change_within_a_job() {
        let digest = |teacher: &str| job(&format!("{{ {teacher} }}")).expect("valid").digest();
        let first = digest(OIP);
        for same in [
            OIP.replace("http://a", "http://b"),
            OIP.replace("open-inference", "open-inference-grpc"),
            format!("{OIP}, encoding: binary, batch: 3, auth: {{ environment: A }}, caFile: a.pem"),
        ] {
            assert_eq!(first, digest(&same), "{same}");
        }
        for other in [
            OIP.replace("model: m", "model: n"),
            format!("{OIP}, response: logits"),
            format!("{OIP}, fingerprint: a"),
        ] {
            assert_ne!(first, digest(&other), "{other}");
        }
    }

    #[test]
    fn files_are_found_from_the_job_files_folder() {
        let teacher = format!("{{ {OIP}, auth: {{ file: a/token }}, caFile: /b.pem }}");
        let mut teacher = job(&teacher).expect("valid").spec.teacher;
        teacher.resolve_paths("jobs".as_ref());
        assert_eq!(
            teacher.auth.and_then(|auth| auth.file).as_deref(),
            Some("jobs/a/token".as_ref())
        );
        assert_eq!(teacher.ca_file.as_deref(), Some("/b.pem".as_ref()));
        assert_eq!(teacher.protocol, Protocol::OpenInference);
    }
}
