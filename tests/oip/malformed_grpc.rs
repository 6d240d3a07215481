//! Malformed gRPC requests: each gets its code and a message that names what is wrong, and the server lives on.

use tonic::Code;
use tonic::codec::CompressionEncoding;

use super::common::{RED, TestServer, png};
use super::*;

type Spoil = fn(&mut pb::ModelInferRequest);

/// What is done to a good request, the code it must then get, and words that its message must have.
const CASES: &[(&str, Spoil, Code, &str)] = {
    use Code::{InvalidArgument, NotFound};
    &[
        (
            "no model",
            |r| r.model_name.clear(),
            InvalidArgument,
            "name of the model",
        ),
        (
            "unknown model",
            |r| r.model_name = "n".into(),
            NotFound,
            "no model \"n\"",
        ),
        (
            "unknown version",
            |r| r.model_version = "9".into(),
            NotFound,
            "version",
        ),
        (
            "no inputs",
            |r| r.inputs.clear(),
            InvalidArgument,
            "raw_input_contents has 1 elements for 0",
        ),
        (
            "no inputs and no data",
            |r| {
                r.inputs.clear();
                r.raw_input_contents.clear();
            },
            InvalidArgument,
            "inputs is empty",
        ),
        (
            "the same input twice",
            |r| {
                r.inputs.push(r.inputs[0].clone());
                r.raw_input_contents.push(r.raw_input_contents[0].clone());
            },
            InvalidArgument,
            "2 times",
        ),
        (
            "data for two inputs",
            |r| r.raw_input_contents.push(Vec::new().into()),
            InvalidArgument,
            "raw_input_contents has 2",
        ),
        (
            "unknown input",
            |r| r.inputs[0].name = "image".into(),
            InvalidArgument,
            "no input \"image\"",
        ),
        (
            "unknown datatype",
            |r| r.inputs[0].datatype = "FP16".into(),
            InvalidArgument,
            "\"FP16\"",
        ),
        (
            "negative shape",
            |r| r.inputs[0].shape[0] = -1,
            InvalidArgument,
            "[-1,3,8,8]",
        ),
        (
            "huge shape",
            |r| r.inputs[0].shape = vec![i64::MAX; 4],
            InvalidArgument,
            "shape of the input",
        ),
        (
            "no shape",
            |r| r.inputs[0].shape.clear(),
            InvalidArgument,
            "shape of the input is []",
        ),
        (
            "another size",
            |r| r.inputs[0].shape = vec![1, 3, 9, 9],
            InvalidArgument,
            "images of 8x8",
        ),
        (
            "too many images",
            |r| r.inputs[0].shape[0] = 5,
            InvalidArgument,
            "n from 1 to 4",
        ),
        (
            "a shape of a hundred thousand dimensions",
            |r| r.inputs[0].shape = vec![1; 100_000],
            InvalidArgument,
            "field 3",
        ),
        (
            "truncated tensor",
            |r| {
                r.raw_input_contents[0].truncate(764);
            },
            InvalidArgument,
            "764 bytes",
        ),
        (
            "no data",
            |r| r.raw_input_contents.clear(),
            InvalidArgument,
            "no data",
        ),
        (
            "values that are not finite",
            |r| r.raw_input_contents[0] = vec![0xff; 768].into(),
            InvalidArgument,
            "not finite at index 0",
        ),
        (
            "values in two places",
            |r| r.inputs[0].contents = Some(pb::InferTensorContents::default()),
            InvalidArgument,
            "both contents",
        ),
        (
            "values of another type",
            |r| {
                r.raw_input_contents.clear();
                r.inputs[0].contents = Some(pb::InferTensorContents {
                    int_contents: vec![1; 192],
                    ..Default::default()
                });
            },
            InvalidArgument,
            "fp32_contents",
        ),
        (
            "megabytes of another type",
            |r| {
                r.raw_input_contents.clear();
                r.inputs[0].contents = Some(pb::InferTensorContents {
                    uint64_contents: vec![1; 200_000],
                    ..Default::default()
                });
            },
            InvalidArgument,
            "field 5",
        ),
        (
            "too few values",
            |r| {
                r.raw_input_contents.clear();
                r.inputs[0].contents = Some(pb::InferTensorContents {
                    fp32_contents: vec![1.0; 191],
                    ..Default::default()
                });
            },
            InvalidArgument,
            "191 values",
        ),
        (
            "BYTES without lengths",
            |r| {
                r.inputs[0].datatype = "BYTES".into();
                r.inputs[0].shape = vec![1];
                r.raw_input_contents[0] = png(RED).into();
            },
            InvalidArgument,
            "element 0 of the input has",
        ),
        (
            "BYTES that are no image",
            |r| {
                r.inputs[0].datatype = "BYTES".into();
                r.inputs[0].shape = vec![1];
                r.raw_input_contents[0] = framed(&[b"no image"]).into();
            },
            InvalidArgument,
            "image 0",
        ),
        (
            "a hundred thousand empty elements",
            |r| {
                r.raw_input_contents.clear();
                let bytes_contents = vec![Default::default(); 100_000];
                r.inputs[0].contents = Some(pb::InferTensorContents {
                    bytes_contents,
                    ..Default::default()
                });
            },
            InvalidArgument,
            "fields",
        ),
        (
            "unknown output",
            |r| output(r, "scores", None),
            InvalidArgument,
            "no output \"scores\"",
        ),
        (
            "more classes than there are",
            |r| output(r, "logits", Some(4)),
            InvalidArgument,
            "3 classes",
        ),
        (
            "a negative number of classes",
            |r| output(r, "logits", Some(-1)),
            InvalidArgument,
            "classification is -1",
        ),
        (
            "a negative timeout",
            |r| parameter(r, "timeout", int(-1)),
            InvalidArgument,
            "timeout is -1",
        ),
        (
            "a priority that there is not",
            |r| parameter(r, "priority", int(99)),
            InvalidArgument,
            "priority is 99",
        ),
        (
            "a priority without a value",
            |r| parameter(r, "priority", pb::InferParameter::default()),
            InvalidArgument,
            "priority",
        ),
        (
            "a sequence",
            |r| parameter(r, "sequence_id", int(7)),
            InvalidArgument,
            "sequence_id",
        ),
        (
            "shared memory",
            |r| {
                let region = (
                    "shared_memory_region".to_owned(),
                    pb::InferParameter::default(),
                );
                r.inputs[0].parameters.extend([region]);
            },
            InvalidArgument,
            "shared_memory_region",
        ),
    ]
};

fn output(request: &mut pb::ModelInferRequest, name: &str, classes: Option<i64>) {
    let classes = classes.map(|classes| ("classification".to_owned(), int(classes)));
    request
        .outputs
        .push(pb::model_infer_request::InferRequestedOutputTensor {
            name: name.into(),
            parameters: classes.into_iter().collect(),
        });
}

fn parameter(request: &mut pb::ModelInferRequest, name: &str, value: pb::InferParameter) {
    request.parameters.insert(name.into(), value);
}

fn int(value: i64) -> pb::InferParameter {
    pb::InferParameter {
        parameter_choice: Some(pb::infer_parameter::ParameterChoice::Int64Param(value)),
    }
}

fn good() -> pb::ModelInferRequest {
    raw_request("m", "FP32", &[1, 3, 8, 8], le_bytes(&[0.5; 192]))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_refused_with_what_is_wrong_and_the_server_lives_on() {
    let server = TestServer::start().await;
    let mut client = grpc(&server).await;
    let mut wrong = Vec::new();
    for (what, spoil, code, words) in CASES {
        let mut request = good();
        spoil(&mut request);
        let status = client.model_infer(request).await.unwrap_err();
        if status.code() != *code || !status.message().contains(words) {
            wrong.push(format!("{what}: {status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let answer = client.model_infer(good()).await.unwrap().into_inner();
    assert_eq!(answer.outputs.len(), 2);
    assert_eq!(server.admitted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_be_compressed_but_not_grow_beyond_the_limit() {
    let server = TestServer::start().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = grpc(&server).await.send_compressed(encoding);
        client.model_infer(good()).await.unwrap();
        let bomb = raw_request("m", "FP32", &[1, 3, 8, 8], vec![0; 32 << 20]);
        let status = client.model_infer(bomb).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        client.model_infer(good()).await.unwrap();
    }
}
