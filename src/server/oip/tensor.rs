//! The input tensor: from whatever way its values came to the images of a batch.

use bytes::{Buf, Bytes};

use super::parameters::{Parameters, binary_data_size};
use super::{INPUT, shown};
use crate::service::{Error, Input};

/// An input as a request has it, before anything is known to be right.
#[derive(Clone, Debug)]
pub(in crate::server) struct Tensor {
    pub(in crate::server) name: String,
    pub(in crate::server) datatype: String,
    pub(in crate::server) shape: Vec<i64>,
    pub(in crate::server) parameters: Parameters,
    pub(in crate::server) data: Data,
}

#[derive(Clone, Debug)]
pub(in crate::server) enum Data {
    /// No values were given with the tensor.
    None,
    Floats(Vec<f32>),
    /// Elements of BYTES.
    Elements(Vec<Bytes>),
    /// Little-endian values; elements of BYTES after their length, 4 bytes little-endian.
    Raw(Bytes),
}

/// Bytes of an element's length.
const PREFIX: usize = 4;

impl Tensor {
    /// Bytes of binary data that belong to this tensor.
    ///
    /// # Errors
    /// When its parameters are not what they must be.
    pub(in crate::server) fn binary_size(&self) -> Result<Option<usize>, Error> {
        binary_data_size(&self.parameters)
    }
}

/// The images of a request for a model that takes images of `[c, h, w]`, `max_images` at most.
///
/// # Errors
/// Names the field that is wrong, and says what was expected.
pub(super) fn images(
    inputs: Vec<Tensor>,
    image: [usize; 3],
    max_images: usize,
) -> Result<Vec<Input>, Error> {
    let tensor = only(inputs)?;
    // gRPC has no binary data after its messages, but parameters all the same
    tensor.binary_size()?;
    match tensor.datatype.as_str() {
        "FP32" => floats(tensor, image, max_images),
        "BYTES" => encoded(tensor, max_images),
        other => Err(Error::invalid(format!(
            "the datatype of the input is {}, expected FP32 (preprocessed images) or BYTES (encoded images)",
            shown(other)
        ))),
    }
}

fn only(inputs: Vec<Tensor>) -> Result<Tensor, Error> {
    if let Some(unknown) = inputs.iter().find(|tensor| tensor.name != INPUT) {
        return Err(Error::invalid(format!(
            "there is no input {}; the model has one, {INPUT:?}",
            shown(&unknown.name)
        )));
    }
    let number = inputs.len();
    let mut inputs = inputs.into_iter();
    match (inputs.next(), inputs.next()) {
        (Some(tensor), None) => Ok(tensor),
        (None, _) => Err(Error::invalid(format!(
            "inputs is empty; the model has one input, {INPUT:?}"
        ))),
        _ => Err(Error::invalid(format!(
            "inputs has {INPUT:?} {number} times; give it once"
        ))),
    }
}

fn floats(tensor: Tensor, image: [usize; 3], max_images: usize) -> Result<Vec<Input>, Error> {
    let images = leading(&tensor.shape, max_images);
    let fits = |(&found, expected): (&i64, usize)| usize::try_from(found) == Ok(expected);
    let rest = tensor.shape.get(1..).unwrap_or_default();
    let same = rest.len() == image.len() && rest.iter().zip(image).all(fits);
    let (Some(images), true) = (images, same) else {
        let [channels, height, width] = image;
        return Err(Error::invalid(format!(
            "the shape of the input is {}, expected [n,{channels},{height},{width}] with n from 1 to {max_images}: \
             the model is served with images of {height}x{width}",
            list(&tensor.shape)
        )));
    };
    let len: usize = image.iter().product();
    let count = images * len;
    let images: Vec<Vec<f32>> = match tensor.data {
        Data::Floats(values) if values.len() != count => {
            return Err(mismatch(&tensor.shape, count, values.len(), "values"));
        }
        Data::Floats(values) => values.chunks_exact(len).map(<[f32]>::to_vec).collect(),
        Data::Raw(bytes) => {
            let size = size_of::<f32>();
            if bytes.len() != count * size {
                return Err(mismatch(&tensor.shape, count * size, bytes.len(), "bytes"));
            }
            let values = |image: &[u8]| {
                image
                    .as_chunks()
                    .0
                    .iter()
                    .copied()
                    .map(f32::from_le_bytes)
                    .collect()
            };
            bytes.chunks_exact(len * size).map(values).collect()
        }
        Data::Elements(_) => {
            return Err(Error::invalid(
                "the data of the input is text, but its datatype is FP32",
            ));
        }
        Data::None => return Err(no_data()),
    };
    let finite = |image: &Vec<f32>| image.iter().position(|value| !value.is_finite());
    let spoiled = images.iter().map(finite).enumerate();
    if let Some((image, Some(at))) = spoiled.into_iter().find(|(_, at)| at.is_some()) {
        let at = image * len + at;
        return Err(Error::invalid(format!(
            "the data of the input is not finite at index {at} of {count}"
        )));
    }
    Ok(images.into_iter().map(Input::Tensor).collect())
}

fn encoded(tensor: Tensor, max_images: usize) -> Result<Vec<Input>, Error> {
    let images =
        leading(&tensor.shape, max_images).filter(|_| matches!(tensor.shape[..], [_] | [_, 1]));
    let images = images.ok_or_else(|| {
        Error::invalid(format!(
            "the shape of the input is {}, expected [n] with n from 1 to {max_images}, an encoded image each",
            list(&tensor.shape)
        ))
    })?;
    let elements = match tensor.data {
        Data::Elements(elements) => elements,
        Data::Raw(bytes) => unframe(bytes, images)?,
        Data::Floats(values) if values.is_empty() => Vec::new(),
        Data::Floats(_) => {
            return Err(Error::invalid(
                "the data of the input is numbers, but its datatype is BYTES",
            ));
        }
        Data::None => return Err(no_data()),
    };
    if elements.len() != images {
        return Err(mismatch(&tensor.shape, images, elements.len(), "elements"));
    }
    Ok(elements.into_iter().map(Input::Encoded).collect())
}

/// The batch dimension, if it is one.
fn leading(shape: &[i64], max_images: usize) -> Option<usize> {
    let images = usize::try_from(*shape.first()?).ok()?;
    (1..=max_images).contains(&images).then_some(images)
}

/// Splits `count` elements of BYTES.
fn unframe(mut bytes: Bytes, count: usize) -> Result<Vec<Bytes>, Error> {
    let mut elements = Vec::with_capacity(count);
    for index in 0..count {
        let length = bytes.try_get_u32_le().map_err(|_| {
            Error::invalid(format!(
                "the data of the input ends before the length of element {index} of {count}"
            ))
        })? as usize;
        if length > bytes.len() {
            return Err(Error::invalid(format!(
                "element {index} of the input has {length} bytes by its length, but only {} are left of the data",
                bytes.len()
            )));
        }
        elements.push(bytes.split_to(length));
    }
    if !bytes.is_empty() {
        return Err(Error::invalid(format!(
            "{} bytes are left over after the {count} elements of the input",
            bytes.len()
        )));
    }
    Ok(elements)
}

/// The reverse of [`unframe`].
pub(super) fn frame<'a>(elements: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for element in elements {
        // labels and numbers, far below 4 GiB
        let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
        bytes.reserve(PREFIX + element.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(element);
    }
    bytes
}

fn no_data() -> Error {
    Error::invalid("the input has no data")
}

fn mismatch(shape: &[i64], expected: usize, found: usize, unit: &str) -> Error {
    Error::invalid(format!(
        "the data of the input has {found} {unit}, but its shape {} needs {expected}",
        list(shape)
    ))
}

/// A shape in words, however many dimensions a caller gave it.
fn list(shape: &[i64]) -> String {
    let shown: Vec<String> = shape.iter().take(8).map(i64::to_string).collect();
    let more = if shape.len() > 8 { ",..." } else { "" };
    format!("[{}{more}]", shown.join(","))
}
