//! The protobuf codec of our services: prost's, behind a bound on what a message may make it allocate.
//!
//! An empty image takes two bytes on the wire and sixteen times as much in memory, a number of a packed list one and
//! eight times as much, so a message within the size limit could ask for half a gigabyte before anyone counts its
//! images. So fields are counted, and only those that carry images may be long.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::pb::inference::ModelInferRequest;

/// Fields of a message, repeated ones counted each; far more than a request may have images.
const MAX_FIELDS: usize = 1 << 16;
/// Bytes of a field that carries no image.
const MAX_FIELD: usize = 1 << 16;

/// Which fields of a message are looked into and which may be long; of all others that is not known.
struct Bounds {
    /// Fields that are messages, by tag.
    messages: &'static [(u32, &'static Bounds)],
    /// Tags of fields that may be long; `None`: any.
    long: Option<&'static [u32]>,
}

const ANY: Bounds = Bounds {
    messages: &[],
    long: None,
};
/// `fp32_contents` and `bytes_contents`.
const CONTENTS: Bounds = Bounds {
    messages: &[],
    long: Some(&[6, 8]),
};
const SHORT: Bounds = Bounds {
    messages: &[],
    long: Some(&[]),
};
/// `contents`.
const INPUT: Bounds = Bounds {
    messages: &[(5, &CONTENTS)],
    long: Some(&[]),
};
/// `inputs`, `outputs` and `raw_input_contents`.
const INFER: Bounds = Bounds {
    messages: &[(5, &INPUT), (6, &SHORT)],
    long: Some(&[7]),
};

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    Fields,
    /// The tag of a field that is too long.
    Long(u32),
}

#[derive(Debug)]
pub(crate) struct BoundedCodec<T, U>(PhantomData<(T, U)>);

#[derive(Debug)]
pub(crate) struct BoundedDecoder<U>(ProstDecoder<U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::default())
    }
}

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bounds = if TypeId::of::<U>() == TypeId::of::<ModelInferRequest>() {
            &INFER
        } else {
            &ANY
        };
        // tonic hands over whole messages in one piece
        match excess(buf.chunk(), bounds, &mut MAX_FIELDS.clone()) {
            None => self.0.decode(buf),
            Some(Excess::Fields) => Err(Status::invalid_argument(format!(
                "the message has more than {MAX_FIELDS} fields"
            ))),
            Some(Excess::Long(tag)) => Err(Status::invalid_argument(format!(
                "field {tag} of the message, or of one in it, has more than {MAX_FIELD} bytes; \
                 send values in raw_input_contents, fp32_contents or bytes_contents"
            ))),
        }
    }
}

/// Whether the message has more than `left` fields, or one that is too long. One that is no protobuf has as many fields
/// as precede the fault: that is left to the decoder.
fn excess(mut message: &[u8], bounds: &Bounds, left: &mut usize) -> Option<Excess> {
    while !message.is_empty() {
        let Some(rest) = left.checked_sub(1) else {
            return Some(Excess::Fields);
        };
        *left = rest;
        let (tag, wire_type) = decode_key(&mut message).ok()?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut message, DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
        let (field, rest) = message.split_at_checked(length)?;
        message = rest;
        let inner = bounds.messages.iter().find(|(known, _)| *known == tag);
        if let Some((_, inner)) = inner {
            if let Some(excess) = excess(field, inner, left) {
                return Some(excess);
            }
        } else if length > MAX_FIELD && bounds.long.is_some_and(|long| !long.contains(&tag)) {
            return Some(Excess::Long(tag));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pb::ClassifyRequest;
    use crate::server::pb::inference::InferTensorContents;
    use crate::server::pb::inference::model_infer_request::InferInputTensor;

    fn checked(message: &impl Message, bounds: &Bounds, fields: usize) -> Option<Excess> {
        excess(&message.encode_to_vec(), bounds, &mut fields.clone())
    }

    #[test]
    fn fields_are_counted_up_to_the_limit() {
        let mut request = ClassifyRequest {
            images: vec![b"some bytes".as_slice().into(); 3],
            top_k: 5,
            ..Default::default()
        };
        assert_eq!(checked(&request, &ANY, 4), None);
        request.model = "m".into();
        assert_eq!(checked(&request, &ANY, 4), Some(Excess::Fields));
        assert_eq!(excess(&[], &ANY, &mut 0), None);
        assert_eq!(
            excess(&[0xff; 64], &ANY, &mut 4),
            None,
            "left to the decoder"
        );
    }

    fn infer(contents: InferTensorContents) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![InferInputTensor {
                contents: Some(contents),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_values_of_a_tensor_are_counted_and_only_they_may_be_long() {
        let elements = infer(InferTensorContents {
            bytes_contents: vec![bytes::Bytes::new(); 9],
            ..Default::default()
        });
        assert_eq!(checked(&elements, &INFER, 11), None);
        assert_eq!(checked(&elements, &INFER, 10), Some(Excess::Fields));
        let long = 1 << 17;
        let floats = infer(InferTensorContents {
            fp32_contents: vec![1.0; long],
            ..Default::default()
        });
        assert_eq!(checked(&floats, &INFER, 9), None);
        let bools = infer(InferTensorContents {
            uint64_contents: vec![1; long],
            ..Default::default()
        });
        assert_eq!(checked(&bools, &INFER, 9), Some(Excess::Long(5)));
        let shape = ModelInferRequest {
            inputs: vec![InferInputTensor {
                shape: vec![1; long],
                ..Default::default()
            }],
            raw_input_contents: vec![vec![0; long].into()],
            ..Default::default()
        };
        assert_eq!(checked(&shape, &INFER, 9), Some(Excess::Long(3)));
        let raw = ModelInferRequest {
            inputs: Vec::new(),
            ..shape
        };
        assert_eq!(checked(&raw, &INFER, 9), None);
    }
}
