//! The output tensors: which ones a request wants, and their values.

use super::parameters::{self, Parameters};
use super::shown;
use super::tensor::frame;
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
/// For unknown names and names given twice.
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
        outputs.push(Output {
            kind,
            // as Triton does
            classification: wanted.classification.min(classes),
            binary: wanted.binary.unwrap_or(all_binary),
        });
    }
    Ok(outputs)
}

impl Output {
    /// The tensor of all images.
    ///
    /// # Errors
    /// When the service was not asked for logits.
    pub(super) fn tensor(self, scores: &[Scores], model: &ServedModel) -> Result<Tensor, Error> {
        let values = |scores: &Scores| match self.kind {
            Kind::Logits => scores.logits().map(<[f32]>::to_vec),
            Kind::Probabilities => scores.probabilities(),
        };
        let values: Vec<Vec<f32>> = scores.iter().map(values).collect::<Result<_, _>>()?;
        let (datatype, columns, values) = if self.classification == 0 {
            ("FP32", model.labels.len(), Values::Floats(values.concat()))
        } else {
            let best = |(scores, values): (&Scores, Vec<f32>)| {
                let text = |class: usize| match (values.get(class), model.labels.get(class)) {
                    (Some(value), Some(label)) => format!("{value}:{class}:{label}"),
                    _ => String::new(),
                };
                let classes = scores.top(self.classification).into_iter();
                classes.map(text).collect::<Vec<_>>()
            };
            let texts = scores.iter().zip(values).flat_map(best).collect();
            ("BYTES", self.classification, Values::Texts(texts))
        };
        Ok(Tensor {
            name: self.kind.name(),
            datatype,
            shape: [scores.len(), columns],
            values,
            binary: self.binary,
        })
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
