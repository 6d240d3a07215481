//! Headers, compression and binary data.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let image = json!([1, 3, 8, 8]);
    let all = vec![0; 768];
    let binary_fp32 =
        |size, data: &[u8], what, words| binary("FP32", image.clone(), size, data, what, words);
    let bytes = |data: &[u8], what, words| {
        binary("BYTES", json!([2]), json!(data.len()), data, what, words)
    };
    vec![
        case(
            "header length that is no number",
            good().to_string(),
            "inference-header-content-length is \"ten\"",
        )
        .with(HEADER_LENGTH, "ten"),
        case("negative header length", good().to_string(), "\"-1\"").with(HEADER_LENGTH, "-1"),
        case(
            "header length beyond the body",
            "{}",
            "is 3, but the body has 2 bytes",
        )
        .with(HEADER_LENGTH, "3"),
        case(
            "header length that cuts the JSON",
            input("name", json!("input")),
            "JSON",
        )
        .with(HEADER_LENGTH, "20"),
        binary_fp32(
            json!(768),
            &all[..700],
            "truncated tensor",
            "binary_data_size of the input is 768, but 700",
        ),
        binary_fp32(
            json!(768),
            &[&all[..], b"more"].concat(),
            "bytes left over",
            "4 bytes follow",
        ),
        binary_fp32(
            json!(-1),
            &all,
            "negative binary size",
            "binary_data_size is -1",
        ),
        binary_fp32(
            json!("768"),
            &all,
            "binary size as text",
            "binary_data_size is \"768\"",
        ),
        binary_fp32(
            json!(u64::MAX),
            &all,
            "huge binary size",
            "binary_data_size",
        ),
        binary_fp32(
            json!(764),
            &all[..764],
            "binary data of another size than the shape",
            "764 bytes, but its shape [1,3,8,8] needs 768",
        ),
        binary(
            "FP32",
            json!([2, 3, 8, 8]),
            json!(768),
            &all,
            "shape of two images, data of one",
            "needs 1536",
        ),
        bytes(
            &[1, 0],
            "elements cut in a length",
            "before the length of element 0",
        ),
        bytes(
            &framed(&[&png(RED)]),
            "one element of two",
            "before the length of element 1 of 2",
        ),
        bytes(
            &[9, 0, 0, 0, 1],
            "element longer than the data",
            "has 9 bytes by its length, but only 1",
        ),
        bytes(&[0xff; 8], "element of 4 GiB", "has 4294967295 bytes"),
        bytes(
            &framed(&[b"a", b"b", b"c"]),
            "three elements of two",
            "5 bytes are left over",
        ),
        case(
            "data twice",
            {
                let mut input = good();
                input["parameters"] = json!({"binary_data_size": 0});
                json!({"inputs": [input]}).to_string()
            },
            "both data and binary_data_size",
        ),
        case("raw mode without an image", "no image", "image 0")
            .with(HEADER_LENGTH, "0")
            .gets(422),
        case("raw mode without a body", "", "image 0")
            .with(HEADER_LENGTH, "0")
            .gets(422),
        case(
            "gzip bomb",
            gzip(&vec![b' '; 64 << 20]),
            "once it is decompressed",
        )
        .with("content-encoding", "gzip")
        .gets(413),
        case("no gzip", "{}", "is not gzip").with("content-encoding", "gzip"),
        case(
            "gzip cut short",
            gzip(&without("name"))[..40].to_vec(),
            "is not gzip",
        )
        .with("content-encoding", "gzip"),
        case("no deflate", "{}", "is not deflate").with("content-encoding", "deflate"),
        case("unknown encoding", "{}", "content-encoding is \"br\"").with("content-encoding", "br"),
        case("body over the limit", vec![b' '; 1 << 20], "bytes").gets(413),
        case("timeout header that is none", "{}", "x-request-timeout-ms")
            .with("x-request-timeout-ms", "soon"),
    ]
}

/// Small bodies that a caller makes large: what the server would make of them must stay small too.
pub(super) fn amplifying() -> Vec<Case> {
    let many = format!("[{}\"\"]", "\"\",".repeat(70_000));
    let many = format!(
        r#"{{"inputs":[{{"name":"input","datatype":"BYTES","shape":[1],"data":{many}}}]}}"#
    );
    let long = format!(r#"{{"inputs":"{}"}}"#, "\x7f".repeat(200_000));
    let gzip = |body: String| gzip(body.as_bytes());
    let compressed = |case: Case| case.with("content-encoding", "gzip");
    vec![
        compressed(case(
            "seventy thousand texts",
            gzip(many),
            "more than 65536 texts",
        )),
        compressed(case("a long text where none belongs", gzip(long), "inputs")),
    ]
}
