//! The messages and services of proto/, as build.rs generates them.

#![allow(missing_debug_implementations, unreachable_pub, missing_docs)]

tonic::include_proto!("resnetd.v1");

/// The Open Inference Protocol, version 2.
pub mod inference {
    tonic::include_proto!("inference");
}

/// Every file of the interfaces, encoded, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("resnetd_descriptor");

/// Enumerations in JSON: by name, as protobuf's own mapping has them.
pub(super) mod names {
    use serde::{Serialize, Serializer};

    use super::inference::{DataType, model_input, model_instance_group};

    macro_rules! by_name {
        ($function:ident, $type:ty) => {
            pub(in crate::server) fn $function<S: Serializer>(
                value: &i32,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let value = <$type>::try_from(*value).unwrap_or_default();
                value.as_str_name().serialize(serializer)
            }
        };
    }

    by_name!(data_type, DataType);
    by_name!(format, model_input::Format);
    by_name!(kind, model_instance_group::Kind);
}
