//! The messages and services of proto/resnetd/v1, as build.rs generates them.

#![allow(missing_debug_implementations, unreachable_pub, missing_docs)]

tonic::include_proto!("resnetd.v1");

/// Every file of the interface, encoded, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("resnetd_descriptor");
