//! Which engine of cuDNN computes a graph, with which knobs: all that a plan needs beside its graph, as a stable text.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use crate::engine::EngineError;

/// An engine's index among the graph's engines, and the knobs it is not left to choose: type and value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) engine: i64,
    pub(super) knobs: Vec<(u32, i64)>,
}

/// `cudnn/41/2=1,13=0`: engine 41 with knob 2 at 1 and knob 13 at 0.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cudnn/{}/", self.engine)?;
        for (i, (knob, value)) in self.knobs.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{knob}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Choice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        parse(name).ok_or_else(|| {
            EngineError::Device(format!(
                "{name:?} names no cuDNN plan; expected cudnn/ENGINE/KNOB=VALUE,..."
            ))
        })
    }
}

fn parse(name: &str) -> Option<Choice> {
    let (engine, knobs) = name.strip_prefix("cudnn/")?.split_once('/')?;
    let knobs = knobs.split(',').filter(|knob| !knob.is_empty());
    let knobs = knobs.map(|knob| {
        let (knob, value) = knob.split_once('=')?;
        Some((knob.parse().ok()?, value.parse().ok()?))
    });
    Some(Choice {
        engine: engine.parse().ok()?,
        knobs: knobs.collect::<Option<_>>()?,
    })
}

/// Orders choices so that any number of them, taken from the front, are of many engines: the best of every engine, then
/// the second of every one. The heuristics list dozens of variants of one engine before the first of another.
pub(super) fn spread(choices: Vec<Choice>) -> Vec<Choice> {
    let mut seen: HashMap<i64, usize> = HashMap::new();
    let mut ranked: Vec<(usize, Choice)> = Vec::new();
    for choice in choices {
        if ranked.iter().any(|(_, other)| *other == choice) {
            continue;
        }
        let nth = seen.entry(choice.engine).or_default();
        ranked.push((*nth, choice));
        *nth += 1;
    }
    ranked.sort_by_key(|(nth, _)| *nth);
    ranked.into_iter().map(|(_, choice)| choice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(engine: i64, knobs: &[(u32, i64)]) -> Choice {
        let knobs = knobs.to_vec();
        Choice { engine, knobs }
    }

    #[test]
    fn names_are_read_back() {
        for (choice, name) in [
            (choice(41, &[(2, 1), (13, 0)]), "cudnn/41/2=1,13=0"),
            (choice(0, &[]), "cudnn/0/"),
            (choice(7, &[(27, -1)]), "cudnn/7/27=-1"),
        ] {
            assert_eq!(choice.to_string(), name);
            assert_eq!(name.parse::<Choice>().unwrap(), choice);
        }
        for wrong in [
            "",
            "cudnn/41",
            "cudnn/x/",
            "cudnn/1/2",
            "cudnn/1/2=x",
            "41/",
        ] {
            let error = wrong.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains("cudnn/ENGINE"), "{error}");
        }
    }

    #[test]
    fn the_best_of_every_engine_comes_first() {
        let list = vec![
            choice(41, &[(2, 1)]),
            choice(41, &[(2, 4)]),
            choice(41, &[(2, 1)]),
            choice(10, &[]),
            choice(41, &[(2, 5)]),
            choice(10, &[(14, 3)]),
        ];
        let spread: Vec<_> = spread(list).iter().map(Choice::to_string).collect();
        let expected = [
            "cudnn/41/2=1",
            "cudnn/10/",
            "cudnn/41/2=4",
            "cudnn/10/14=3",
            "cudnn/41/2=5",
        ];
        assert_eq!(spread, expected);
    }
}
