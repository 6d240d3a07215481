//! Log output: one subscriber for the process, on standard error, so that standard output stays the program's answer.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines for people, coloured on a terminal.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    #[error("{0:?} is no log format; expected pretty or json")]
    Format(String),
    #[error(
        "the log filter {filter:?} is not valid ({reason}); expected something like info or info,resnetd=debug"
    )]
    Filter { filter: String, reason: String },
    #[error("logging is set up already")]
    AlreadySet,
}

impl FromStr for LogFormat {
    type Err = TracingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            other => Err(TracingError::Format(other.to_owned())),
        }
    }
}

/// Sends the process's logs to standard error. `filter` has the syntax of tracing-subscriber's `EnvFilter`; empty means
/// `info`.
///
/// # Errors
/// On a filter that does not parse, and on a second call.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TracingError> {
    let ansi = std::io::stderr().is_terminal();
    let subscriber = subscriber(format, filter, ansi, std::io::stderr)?;
    use tracing_subscriber::util::SubscriberInitExt;
    subscriber.try_init().map_err(|_| TracingError::AlreadySet)
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    ansi: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, TracingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = if filter.trim().is_empty() {
        "info"
    } else {
        filter
    };
    let parsed = EnvFilter::try_new(filter).map_err(|error| TracingError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_ansi(ansi)
        .with_writer(writer);
    Ok(match format {
        LogFormat::Pretty => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(images = 3, "a batch ran");
            tracing::debug!("details");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "debug");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "a batch ran");
        assert_eq!(lines[0]["images"], 3);
        assert_eq!(lines[0]["level"], "INFO");
    }

    #[test]
    fn pretty_shows_info_and_hides_debug_by_default() {
        let text = logged(LogFormat::Pretty, "");
        assert!(text.contains("a batch ran images=3"), "{text}");
        assert!(!text.contains("details"), "{text}");
    }

    #[test]
    fn a_bad_filter_is_refused_with_its_text() {
        let error = init(LogFormat::Pretty, "info,resnetd=loud")
            .unwrap_err()
            .to_string();
        assert!(error.contains("resnetd=loud"), "{error}");
    }

    #[test]
    fn formats_parse() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert_eq!("pretty".parse::<LogFormat>().unwrap(), LogFormat::Pretty);
        assert!(
            "xml"
                .parse::<LogFormat>()
                .unwrap_err()
                .to_string()
                .contains("xml")
        );
    }
}
