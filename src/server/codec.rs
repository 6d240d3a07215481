//! The protobuf codec of the classifier service: prost's, behind a bound on what a message may make it allocate.
//!
//! An empty image takes two bytes on the wire and sixteen times as much in memory, so a message within the size limit
//! could ask for half a gigabyte before anyone counts its images.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Fields of a message, repeated ones counted each; far more than a request may have images.
const MAX_FIELDS: usize = 1 << 16;

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

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // tonic hands over whole messages in one piece
        if has_more_fields(buf.chunk(), MAX_FIELDS) {
            return Err(Status::invalid_argument(format!(
                "the message has more than {MAX_FIELDS} fields"
            )));
        }
        self.0.decode(buf)
    }
}

/// Whether the message has more than `limit` fields; one that is no protobuf has as many as precede the fault.
fn has_more_fields(mut message: &[u8], limit: usize) -> bool {
    for _ in 0..limit {
        let skipped = decode_key(&mut message).and_then(|(tag, wire_type)| {
            skip_field(wire_type, tag, &mut message, DecodeContext::default())
        });
        if message.is_empty() || skipped.is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pb::ClassifyRequest;

    #[test]
    fn fields_are_counted_up_to_the_limit() {
        let mut request = ClassifyRequest {
            images: vec![b"some bytes".as_slice().into(); 3],
            top_k: 5,
            ..Default::default()
        };
        assert!(!has_more_fields(&request.encode_to_vec(), 4));
        request.model = "m".into();
        assert!(has_more_fields(&request.encode_to_vec(), 4));
        assert!(!has_more_fields(&[], 4));
        assert!(!has_more_fields(&[0xff; 64], 4), "left to the decoder");
    }
}
