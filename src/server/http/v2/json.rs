//! Parsing JSON that a caller wrote: bounded in what it may make the server allocate, and with errors that name the field.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::server::oip::{Data, Parameters, Value};
use crate::service::{Code, Error};

/// Parameters of one object; more say nothing.
const MAX_PARAMETERS: usize = 64;
/// Depth to which a tensor's values may be nested.
const MAX_RANK: usize = 8;

/// # Errors
/// Names the field that is wrong, if it has one.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(json).or_else(|_| {
        // once more, keeping account of the path, which would cost too much where all is well
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let traced = serde_path_to_error::deserialize(&mut deserializer);
        let error = match traced {
            Err(error) => match error.path().to_string().as_str() {
                "." => error.inner().to_string(),
                path => format!("{path}: {}", error.inner()),
            },
            // then what follows the value is what is wrong
            Ok(value) => match deserializer.end() {
                Ok(()) => return Ok(value),
                Err(error) => error.to_string(),
            },
        };
        let message = format!("the JSON of the request is not what is expected: {error}");
        Err(Error::new(Code::InvalidRequest, message))
    })
}

/// A list of at most `N` elements.
#[derive(Debug)]
pub(super) struct Short<T, const N: usize>(pub(super) Vec<T>);

impl<T, const N: usize> Default for Short<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Short<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = Short<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == N {
                        return Err(A::Error::custom(format!("more than {N} elements")));
                    }
                    elements.push(element);
                }
                Ok(Short(elements))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// The parameters of a request, an input or an output.
pub(super) fn parameters<'de, D: Deserializer<'de>>(from: D) -> Result<Parameters, D::Error> {
    struct Map;
    impl<'de> Visitor<'de> for Map {
        type Value = Parameters;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
            let mut parameters = Vec::new();
            while let Some((name, Parameter(value))) = map.next_entry::<String, Parameter>()? {
                if parameters.len() == MAX_PARAMETERS {
                    let message = format!("more than {MAX_PARAMETERS} parameters");
                    return Err(A::Error::custom(message));
                }
                parameters.push((name, value));
            }
            Ok(parameters)
        }
    }
    from.deserialize_map(Map)
}

/// A value of any type, of which lists and objects are passed over.
struct Parameter(Value);

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Int(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                use serde::de::IgnoredAny;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Any).map(Parameter)
    }
}

/// The `data` of a tensor: numbers or base64 texts, in one list or nested as its shape is.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) data: Data,
    /// Lengths of the lists, outermost first; one where they are not nested.
    pub(super) lengths: Vec<usize>,
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut reading = Reading::default();
        let length = Level {
            reading: &mut reading,
            depth: 0,
        };
        if length.deserialize(deserializer)?.is_none() {
            return Err(D::Error::custom("expected a list"));
        }
        let Reading {
            floats,
            elements,
            mut lengths,
        } = reading;
        lengths.reverse();
        let data = match (floats.is_empty(), elements.is_empty()) {
            (false, false) => return Err(D::Error::custom("both numbers and texts")),
            (true, false) => Data::Elements(elements),
            _ => Data::Floats(floats),
        };
        Ok(Self { data, lengths })
    }
}

#[derive(Default)]
struct Reading {
    floats: Vec<f32>,
    elements: Vec<Bytes>,
    /// Lengths of the lists that have ended, innermost first.
    lengths: Vec<usize>,
}

/// One value, or a list of them; a list says how deep the lists in it go.
struct Level<'a> {
    reading: &'a mut Reading,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    /// Lists below this one and itself; `None` for a value.
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, or texts in base64")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        self.reading.floats.push(value as f32);
        Ok(None)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let element = STANDARD.decode(text).map_err(|error| {
            E::custom(format!(
                "the element is not base64: {error}; texts in JSON are base64, as encoded images are no UTF-8"
            ))
        })?;
        self.reading.elements.push(element.into());
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Self { reading, depth } = self;
        if depth == MAX_RANK {
            return Err(A::Error::custom(format!(
                "nested deeper than {MAX_RANK} lists"
            )));
        }
        let (mut length, mut below) = (0, None);
        loop {
            let next = Level {
                reading: &mut *reading,
                depth: depth + 1,
            };
            let Some(lists) = list.next_element_seed(next)? else {
                break;
            };
            let lists = lists.unwrap_or(0);
            if *below.get_or_insert(lists) != lists {
                return Err(A::Error::custom("lists and values side by side"));
            }
            length += 1;
        }
        let below = below.unwrap_or(0);
        match reading.lengths.get(below) {
            Some(&before) if before != length => {
                let message = format!("lists of {before} and of {length} elements side by side");
                return Err(A::Error::custom(message));
            }
            Some(_) => {}
            None => reading.lengths.push(length),
        }
        Ok(Some(below + 1))
    }
}
