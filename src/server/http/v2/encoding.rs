//! Compressed bodies: gzip, and deflate in zlib's form, which is what HTTP means by it (RFC 9110, section 8.4.1.2).

use std::io::{self, Read, Write};

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::service::{Code, Error};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let is = |encoding: &Self| name.eq_ignore_ascii_case(encoding.name());
        [Self::Gzip, Self::Deflate].into_iter().find(is)
    }

    /// How a request's body is compressed.
    ///
    /// # Errors
    /// For any other way.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let Some(value) = headers.get(CONTENT_ENCODING) else {
            return Ok(None);
        };
        let name = String::from_utf8_lossy(value.as_bytes());
        let name = name.trim();
        if name.is_empty() || name.eq_ignore_ascii_case("identity") {
            return Ok(None);
        }
        let message =
            || format!("content-encoding is {name:?}; gzip, deflate and identity are understood");
        let encoding = Self::named(name);
        encoding
            .map(Some)
            .ok_or_else(|| Error::new(Code::InvalidRequest, message()))
    }

    /// What the caller would rather have than the plain answer: the first it names with the highest weight.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut best = None;
        let mut highest = 0.0;
        for value in headers.get_all(ACCEPT_ENCODING) {
            for part in value.to_str().unwrap_or_default().split(',') {
                let (name, weight) = part.split_once(';').unwrap_or((part, ""));
                let weight = weight.trim().strip_prefix("q=");
                let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
                if let Some(encoding) = Self::named(name.trim())
                    && weight > highest
                {
                    (best, highest) = (Some(encoding), weight);
                }
            }
        }
        best
    }

    /// Decompresses a body of at most `limit` bytes.
    ///
    /// # Errors
    /// For more than that, and for what is not compressed so.
    pub(super) fn decode(self, body: &[u8], limit: usize) -> Result<Bytes, Error> {
        let mut plain = Vec::new();
        let most = limit as u64 + 1;
        let read = match self {
            Self::Gzip => MultiGzDecoder::new(body).take(most).read_to_end(&mut plain),
            Self::Deflate => ZlibDecoder::new(body).take(most).read_to_end(&mut plain),
        };
        if let Err(error) = read {
            let message = format!(
                "the body is not {} as content-encoding says: {error}",
                self.name()
            );
            return Err(Error::new(Code::InvalidRequest, message));
        }
        if plain.len() > limit {
            let message =
                format!("the body has more than the {limit} bytes allowed once it is decompressed");
            return Err(Error::new(Code::BodyTooLarge, message));
        }
        Ok(plain.into())
    }

    /// # Errors
    /// None that a writer into memory can have.
    pub(super) fn encode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
                writer.write_all(body)?;
                writer.finish()
            }
            Self::Deflate => {
                let mut writer = ZlibEncoder::new(Vec::new(), Compression::fast());
                writer.write_all(body)?;
                writer.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_encoded_decodes_and_no_further_than_the_limit() {
        let body = b"the same words, the same words, the same words".repeat(9);
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let small = encoding.encode(&body).unwrap();
            assert!(small.len() < body.len() / 2);
            assert_eq!(encoding.decode(&small, body.len()).unwrap(), body);
            let error = encoding.decode(&small, body.len() - 1).unwrap_err();
            assert_eq!(error.code, Code::BodyTooLarge);
            let error = encoding.decode(&small[..9], body.len()).unwrap_err();
            assert_eq!(error.code, Code::InvalidRequest, "{error}");
        }
    }

    #[test]
    fn the_heaviest_encoding_that_is_known_is_taken() {
        let accepted = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(text));
            Encoding::accepted(&headers)
        };
        assert_eq!(accepted("gzip, deflate, br"), Some(Encoding::Gzip));
        assert_eq!(accepted("gzip;q=0.5, Deflate"), Some(Encoding::Deflate));
        assert_eq!(accepted("br, gzip;q=0"), None);
        assert_eq!(accepted("identity"), None);
        assert_eq!(Encoding::accepted(&HeaderMap::new()), None);
    }
}
