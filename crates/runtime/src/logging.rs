//! Where log lines go.

use std::{
    env, io,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

/// Environment variable that says what is logged, as `level` or `target=level,...`.
pub const LOG: &str = "STILLHOUSE_LOG";
/// Environment variable that says how a log line looks: `json` or `human`, which is the default.
pub const FORMAT: &str = "STILLHOUSE_LOG_FORMAT";
/// What is logged when [`LOG`] is unset.
const DEFAULT_FILTER: &str = "info";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, message, fields; colours where asked for.
    #[default]
    Human,
    /// The same in colours, for a terminal.
    Coloured,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Whether this process logs for collectors: then it says nothing else on standard error.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("expected a filter such as `debug` or `stillhouse_runtime=debug,info` in {LOG}, found `{found}`")]
    Filter {
        /// What was given.
        found: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is no such format.
    #[error("expected `human` or `json` in {FORMAT}, found `{found}`")]
    Format {
        /// What was given.
        found: String,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice {
        /// What the subscriber said.
        source: tracing_subscriber::util::TryInitError,
    },
}

/// The format that [`FORMAT`] asks for, and `human` where it asks for one for people or for none.
///
/// # Errors
/// [`LogError::Format`].
pub fn wanted(human: Format) -> Result<Format, LogError> {
    named(env::var(FORMAT).ok().as_deref(), human)
}

fn named(name: Option<&str>, human: Format) -> Result<Format, LogError> {
    match name {
        None | Some("" | "human") => Ok(human),
        Some("json") => Ok(Format::Json),
        Some(found) => Err(LogError::Format {
            found: found.to_owned(),
        }),
    }
}

/// Whether this process logs as [`Format::Json`].
#[must_use]
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Sends all log lines of this process to `writer`, filtered by [`LOG`].
///
/// `writer` is standard error ([`std::io::stderr`]) or whatever cooperates with a progress bar.
///
/// # Errors
/// [`LogError`].
pub fn init<W>(format: Format, writer: W) -> Result<(), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = env::var(LOG).ok().filter(|filter| !filter.is_empty());
    let subscriber = subscriber(format, filter.as_deref().unwrap_or(DEFAULT_FILTER), writer)?;
    subscriber.try_init().map_err(|source| LogError::Twice { source })?;
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
    Ok(())
}

/// Sends all log lines of this process to standard error as [`FORMAT`] asks for, coloured where that is a terminal.
///
/// # Errors
/// [`LogError`].
pub fn init_stderr() -> Result<(), LogError> {
    let terminal = io::IsTerminal::is_terminal(&io::stderr()) && env::var_os("NO_COLOR").is_none();
    let human = if terminal { Format::Coloured } else { Format::Human };
    init(wanted(human)?, io::stderr)
}

/// Makes a subscriber without installing it.
///
/// # Errors
/// [`LogError::Filter`].
pub fn subscriber<W>(format: Format, filter: &str, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        found: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        Format::Human => Box::new(builder.with_ansi(false).with_target(false).finish()),
        Format::Coloured => Box::new(builder.with_ansi(true).with_target(false).finish()),
        Format::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str) -> String {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(round = 3, "selected");
            tracing::debug!("detail");
        });
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn people_get_one_plain_line() {
        let text = logged(Format::Human, "info");
        assert!(
            text.contains("selected") && text.contains("round=3") && text.lines().count() == 1,
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn collectors_get_one_object_a_line() {
        let text = logged(Format::Json, "debug");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.contains(r#""round":3"#) && text.contains(r#""message":"selected""#),
            "{text}"
        );
    }

    #[test]
    fn a_format_is_asked_for_by_name() {
        for (name, format) in [
            (None, Format::Coloured),
            (Some("human"), Format::Coloured),
            (Some("json"), Format::Json),
        ] {
            assert_eq!(named(name, Format::Coloured).unwrap(), format);
        }
        let error = named(Some("xml"), Format::Human).unwrap_err();
        assert!(error.to_string().contains("`xml`"), "{error}");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_an_error_that_shows_it() {
        let error = subscriber(Format::Human, "stillhouse=loud", io::sink).err().unwrap();
        assert!(error.to_string().contains("stillhouse=loud"), "{error}");
    }
}
