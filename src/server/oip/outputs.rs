//! The output tensors: which ones a request wants, and their values.

use super::parameters::{self, Parameters};
use super::{frame, shown};
use crate::service::{Error, Scores, ServedModel};

/// What a model says of an image, one number a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Logits,
    Probabilities,
}

/// One output that a request wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    kind: Kind,
    /// 0: all of them, as numbers.
    classification: usize,
    /// Not as JSON.
    binary: bool,
}

/// An output as a request asks for it.
pub(in crate::server) type Requested = (String, Parameters);

/// An output tensor of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::server) struct Tensor {
    pub(in crate::server) name: &'static str,
    pub(in crate::server) datatype: &'static str,
    /// `[images, classes]`.
    pub(in crate::server) shape: [usize; 2],
    pub(in crate::server) values: Values,
    /// Whether HTTP is to send it after its JSON.
    pub(in crate::server) binary: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::server) enum Values {
    Floats(Vec<f32>),
    /// `value:index:label`.
    Texts(Vec<String>),
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Logits, Self::Probabilities];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Probabilities => "probabilities",
        }
    }
}

/// What the request's list of outputs and its parameters ask for; both tensors where the list is empty.
///
/// # Errors
/// For unknown names, names given twice, and more classes than the model has.
pub(super) fn wanted(
    requested: &[Requested],
    parameters: &Parameters,
    classes: usize,
) -> Result<Vec<Output>, Error> {
    let all_binary = parameters::binary_data_output(parameters)?;
    if requested.is_empty() {
        let output = |kind| Output {
            kind,
            classification: 0,
            binary: all_binary,
        };
        return Ok(Kind::ALL.map(output).into());
    }
    let mut outputs: Vec<Output> = Vec::new();
    for (name, parameters) in requested {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.ok_or_else(|| {
            Error::invalid(format!(
                "there is no output {}; the model has \"logits\" and \"probabilities\"",
                shown(name)
            ))
        })?;
        if outputs.iter().any(|output| output.kind == kind) {
            return Err(Error::invalid(format!(
                "outputs has {name:?} twice; give it once"
            )));
        }
        let wanted = parameters::wanted(parameters)?;
        if wanted.classification > classes {
            return Err(Error::invalid(format!(
                "the parameter classification of {name} is {}, but the model has {classes} classes",
                wanted.classification
            )));
        }
        outputs.push(Output {
            kind,
            classification: wanted.classification,
            binary: wanted.binary.unwrap_or(all_binary),
        });
    }
    Ok(outputs)
}

impl Output {
    /// The tensor of all images.
    pub(super) fn tensor(self, scores: &[Scores], model: &ServedModel) -> Tensor {
        let values = |scores: &Scores| match self.kind {
            Kind::Logits => scores.logits().to_vec(),
            Kind::Probabilities => scores.probabilities(),
        };
        let (datatype, columns, values) = if self.classification == 0 {
            let values = scores.iter().flat_map(values).collect();
            ("FP32", model.labels.len(), Values::Floats(values))
        } else {
            let best = |scores: &Scores| {
                let values = values(scores);
                let text = |class: usize| match (values.get(class), model.labels.get(class)) {
                    (Some(value), Some(label)) => format!("{value}:{class}:{label}"),
                    _ => String::new(),
                };
                let classes = scores.top(self.classification).into_iter();
                classes.map(text).collect::<Vec<_>>()
            };
            let texts = scores.iter().flat_map(best).collect();
            ("BYTES", self.classification, Values::Texts(texts))
        };
        Tensor {
            name: self.kind.name(),
            datatype,
            shape: [scores.len(), columns],
            values,
            binary: self.binary,
        }
    }
}

impl Tensor {
    /// The values as they are sent in binary form.
    pub(in crate::server) fn raw(&self) -> Vec<u8> {
        match &self.values {
            Values::Floats(values) => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Values::Texts(texts) => frame(texts.iter().map(String::as_bytes)),
        }
    }
}
