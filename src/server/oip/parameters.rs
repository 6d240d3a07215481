//! Parameters of requests, inputs and outputs.
//!
//! Those that are known are checked; those that ask for something that is not there (sequences, shared memory) are
//! refused, because ignoring them would change what the answer means; all others are ignored, as Triton does.

use std::time::Duration;

use super::shown;
use crate::service::{Error, Priority};

/// In any order; of a name given twice the last counts.
pub(in crate::server) type Parameters = Vec<(String, Value)>;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::server) enum Value {
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    /// A list or an object, or none at all.
    Other,
}

/// What a request asks of its scheduling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) timeout: Option<Duration>,
    pub(super) priority: Priority,
}

/// # Errors
/// For a timeout or priority that is none, and for sequences.
pub(super) fn schedule(parameters: &Parameters) -> Result<Schedule, Error> {
    let mut schedule = Schedule::default();
    for (name, value) in parameters {
        match (name.as_str(), value) {
            ("timeout", Value::Int(0)) | ("priority", Value::Int(0)) => {}
            ("timeout", value) => {
                let us = unsigned(value);
                let us = us.ok_or_else(|| expected(name, value, "microseconds, at least 0"))?;
                schedule.timeout = Some(Duration::from_micros(us));
            }
            ("priority", value) => {
                let level = unsigned(value).and_then(Priority::new);
                schedule.priority = level.ok_or_else(|| {
                    let levels = format!(
                        "0 for the default or 1 (the highest) to {}",
                        Priority::LEVELS
                    );
                    expected(name, value, &levels)
                })?;
            }
            ("sequence_id" | "sequence_start" | "sequence_end", value) if is_set(value) => {
                return Err(Error::invalid(format!(
                    "the parameter {name} is set, but models here keep no state between requests; leave it out"
                )));
            }
            _ => {}
        }
    }
    Ok(schedule)
}

/// How an output is asked for; `classification` is 0 where the tensor itself is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) classification: usize,
    pub(super) binary: Option<bool>,
}

/// # Errors
/// For values that are none, and for shared memory.
pub(super) fn wanted(parameters: &Parameters) -> Result<Wanted, Error> {
    let mut wanted = Wanted::default();
    for (name, value) in parameters {
        match name.as_str() {
            "classification" => {
                let classes = unsigned(value).and_then(|classes| usize::try_from(classes).ok());
                wanted.classification =
                    classes.ok_or_else(|| expected(name, value, "a number of classes"))?;
            }
            "binary_data" => wanted.binary = Some(boolean(name, value)?),
            _ => refuse_shared_memory(name)?,
        }
    }
    Ok(wanted)
}

/// Whether all outputs are wanted in binary form.
///
/// # Errors
/// When `binary_data_output` is not a boolean.
pub(super) fn binary_data_output(parameters: &Parameters) -> Result<bool, Error> {
    let given = parameters
        .iter()
        .rfind(|(name, _)| name == "binary_data_output");
    given.map_or(Ok(false), |(name, value)| boolean(name, value))
}

/// The size of an input's binary data, where it has any.
///
/// # Errors
/// When `binary_data_size` is no size, and for shared memory.
pub(super) fn binary_data_size(parameters: &Parameters) -> Result<Option<usize>, Error> {
    let mut size = None;
    for (name, value) in parameters {
        if name == "binary_data_size" {
            let bytes = unsigned(value).and_then(|bytes| usize::try_from(bytes).ok());
            size = Some(bytes.ok_or_else(|| expected(name, value, "a number of bytes"))?);
        } else {
            refuse_shared_memory(name)?;
        }
    }
    Ok(size)
}

/// # Errors
/// For parameters that would change what is loaded: models are loaded as their folders have them.
pub(in crate::server) fn check_load<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    let overriding = |name: &&str| *name == "config" || name.starts_with("file:");
    match names.into_iter().find(overriding) {
        Some(name) => Err(Error::invalid(format!(
            "the parameter {} is not supported: a model is loaded as its folder has it; change the folder and load again",
            shown(name)
        ))),
        None => Ok(()),
    }
}

/// Models depend on no others, so `unload_dependents` means nothing either way.
///
/// # Errors
/// When it is not a boolean.
pub(in crate::server) fn check_unload(parameters: &Parameters) -> Result<(), Error> {
    let dependents = parameters
        .iter()
        .find(|(name, _)| name == "unload_dependents");
    match dependents {
        Some((name, value)) => boolean(name, value).map(|_| ()),
        None => Ok(()),
    }
}

fn refuse_shared_memory(name: &str) -> Result<(), Error> {
    if name.starts_with("shared_memory_") {
        return Err(Error::invalid(format!(
            "the parameter {} asks for shared memory, which is not supported; send the data in the request",
            shown(name)
        )));
    }
    Ok(())
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn boolean(name: &str, value: &Value) -> Result<bool, Error> {
    match value {
        Value::Bool(boolean) => Ok(*boolean),
        other => Err(expected(name, other, "true or false")),
    }
}

fn is_set(value: &Value) -> bool {
    !matches!(value, Value::Int(0) | Value::Bool(false) | Value::Other)
        && *value != Value::Text(String::new())
}

fn expected(name: &str, value: &Value, what: &str) -> Error {
    let found = match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => shown(text),
        Value::Other => "neither a number nor a text".to_owned(),
    };
    Error::invalid(format!("the parameter {name} is {found}, expected {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: Value) -> Parameters {
        vec![(name.to_owned(), value)]
    }

    #[test]
    fn timeouts_and_priorities_are_kept_and_zero_is_none() {
        let both = [
            one("timeout", Value::Int(1_500)),
            one("priority", Value::Int(2)),
            one("anything", Value::Other),
        ];
        let kept = schedule(&both.concat()).unwrap();
        assert_eq!(kept.timeout, Some(Duration::from_micros(1_500)));
        assert_eq!(kept.priority.level(), 2);
        let zeros = [
            one("timeout", Value::Int(0)),
            one("priority", Value::Int(0)),
            one("sequence_id", Value::Int(0)),
            one("sequence_end", Value::Bool(false)),
        ];
        assert_eq!(schedule(&zeros.concat()).unwrap(), Schedule::default());
        let huge = one("timeout", Value::Int(i128::from(u64::MAX) + 1));
        assert!(schedule(&huge).is_err());
    }

    #[test]
    fn what_a_load_would_override_is_refused() {
        assert!(check_load(["unknown"]).is_ok());
        for name in ["config", "file:1/weights.safetensors"] {
            let error = check_load(["unknown", name]).unwrap_err();
            assert!(error.message.contains(name), "{error}");
        }
        for dependents in [true, false] {
            assert!(check_unload(&one("unload_dependents", Value::Bool(dependents))).is_ok());
        }
        assert!(check_unload(&one("unload_dependents", Value::Int(1))).is_err());
    }
}
