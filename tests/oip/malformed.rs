//! Malformed HTTP requests: each gets its status and a sentence that names what is wrong, and the server lives on.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::common::{RED, TestServer, png, png_of};
use super::*;

/// A request, the status it must get, and words that its error must have.
struct Case {
    what: &'static str,
    model: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    words: &'static str,
}

fn case(what: &'static str, body: impl Into<Vec<u8>>, words: &'static str) -> Case {
    Case {
        what,
        model: "m",
        headers: Vec::new(),
        body: body.into(),
        status: 400,
        words,
    }
}

impl Case {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn gets(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn to(self, model: &'static str) -> Self {
        Self { model, ..self }
    }
}

/// A good input of one image, to be spoiled.
fn good() -> Value {
    json!({"name": "input", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": vec![0.5; 192]})
}

/// A request whose only input has a field spoiled.
fn input(field: &str, value: Value) -> Vec<u8> {
    let mut input = good();
    input[field] = value;
    json!({"inputs": [input]}).to_string().into()
}

fn without(field: &str) -> Vec<u8> {
    let mut input = good();
    input.as_object_mut().unwrap().remove(field);
    json!({"inputs": [input]}).to_string().into()
}

/// A good request with parameters.
fn parameters(parameters: Value) -> Vec<u8> {
    json!({"inputs": [good()], "parameters": parameters})
        .to_string()
        .into()
}

fn outputs(outputs: Value) -> Vec<u8> {
    json!({"inputs": [good()], "outputs": outputs})
        .to_string()
        .into()
}

fn bytes_input(shape: Value, data: Value) -> Vec<u8> {
    json!({"inputs": [{"name": "input", "datatype": "BYTES", "shape": shape, "data": data}]})
        .to_string()
        .into()
}

/// JSON that announces `size` bytes of an input, and what follows it.
fn binary(
    datatype: &str,
    shape: Value,
    size: Value,
    data: &[u8],
    what: &'static str,
    words: &'static str,
) -> Case {
    let header = json!({"inputs": [{
        "name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size},
    }]});
    let header = header.to_string();
    let length = header.len().to_string();
    case(what, [header.as_bytes(), data].concat(), words).with(HEADER_LENGTH, length)
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::best());
    writer.write_all(body).unwrap();
    writer.finish().unwrap()
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn headers_and_binary_data() -> Vec<Case> {
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

fn json_in_general() -> Vec<Case> {
    let deep = format!(
        "{{\"inputs\":[{{\"name\":\"input\",\"data\":{}}}]}}",
        nested(100_000)
    );
    let many: serde_json::Map<_, _> = (0..100).map(|i| (format!("p{i}"), json!(i))).collect();
    vec![
        case("empty body", "", "JSON"),
        case("no JSON", "inputs=1", "JSON"),
        case("JSON that is cut", "{\"inputs\":[", "JSON"),
        case(
            "JSON followed by more",
            [input("name", json!("input")), b"}".to_vec()].concat(),
            "trailing",
        ),
        case("a list", "[]", "JSON"),
        case("deep JSON in data", deep, "inputs[0].data"),
        case(
            "deep JSON in a field that is ignored",
            format!("{{\"more\":{}}}", nested(100_000)),
            "missing field `inputs`",
        ),
        case(
            "deep JSON in a parameter",
            format!("{{\"parameters\":{{\"a\":{}}}}}", nested(100_000)),
            "missing field `inputs`",
        ),
        case(
            "bad UTF-8",
            b"{\"inputs\":[{\"name\":\"inp\xff\xfe\"}]}".to_vec(),
            "inputs[0].name",
        ),
        case(
            "half a surrogate",
            r#"{"inputs":[{"name":"\ud800"}]}"#,
            "inputs[0].name",
        ),
        case(
            "a field twice",
            r#"{"inputs":[],"inputs":[]}"#,
            "duplicate field `inputs`",
        ),
        case(
            "NaN",
            r#"{"inputs":[{"name":"input","data":[NaN]}]}"#,
            "inputs[0].data",
        ),
        case(
            "an id that is no text",
            json!({"id": 7, "inputs": [good()]}).to_string(),
            "id",
        ),
        case(
            "parameters that are a list",
            parameters(json!([1])),
            "parameters",
        ),
        case(
            "a hundred parameters",
            parameters(Value::Object(many)),
            "more than 64 parameters",
        ),
        case("no inputs", "{}", "inputs"),
        case(
            "inputs that are none",
            r#"{"inputs":{"input":1}}"#,
            "inputs",
        ),
        case("no input", r#"{"inputs":[]}"#, "inputs is empty"),
        case(
            "the same input twice",
            json!({"inputs": [good(), good()]}).to_string(),
            "\"input\" 2 times",
        ),
        case(
            "a hundred inputs",
            json!({"inputs": vec![good(); 100]}).to_string(),
            "more than 16",
        ),
    ]
}

fn tensors() -> Vec<Case> {
    let image = |shape| input("shape", shape);
    vec![
        case(
            "unknown input",
            input("name", json!("image")),
            "no input \"image\"",
        ),
        case("input without a name", without("name"), "name"),
        case(
            "a name that is no text",
            input("name", json!(null)),
            "inputs[0].name",
        ),
        case(
            "unknown datatype",
            input("datatype", json!("INT8")),
            "datatype of the input is \"INT8\"",
        ),
        case("no datatype", without("datatype"), "datatype"),
        case("no shape", without("shape"), "shape"),
        case(
            "negative shape",
            image(json!([-1, 3, 8, 8])),
            "[-1,3,8,8], expected [n,3,8,8]",
        ),
        case(
            "huge shape",
            image(json!([i64::MAX, 3, 8, 8])),
            "shape of the input",
        ),
        case(
            "shape that overflows",
            image(json!([1, i64::MAX, i64::MAX, 8])),
            "shape of the input",
        ),
        case(
            "shape beyond every integer",
            image(json!([1e30, 3, 8, 8])),
            "inputs[0].shape[0]",
        ),
        case(
            "shape of text",
            image(json!(["1", 3, 8, 8])),
            "inputs[0].shape[0]",
        ),
        case(
            "shape that is a number",
            image(json!(192)),
            "inputs[0].shape",
        ),
        case("no image", image(json!([0, 3, 8, 8])), "n from 1 to 4"),
        case(
            "more images than allowed",
            image(json!([5, 3, 8, 8])),
            "n from 1 to 4",
        ),
        case(
            "too few dimensions",
            image(json!([3, 8, 8])),
            "expected [n,3,8,8]",
        ),
        case("no dimension", image(json!([])), "expected [n,3,8,8]"),
        case(
            "too many dimensions",
            image(json!(vec![1; 100])),
            "more than 16",
        ),
        case(
            "another size than the model is served with",
            image(json!([1, 3, 9, 9])),
            "served with images of 8x8",
        ),
        case(
            "channels last",
            image(json!([1, 8, 8, 3])),
            "expected [n,3,8,8]",
        ),
        case(
            "too few values",
            input("data", json!(vec![0.5; 191])),
            "191 values, but its shape [1,3,8,8] needs 192",
        ),
        case(
            "values nested in another shape",
            input("data", json!([vec![0.5; 192]])),
            "nested as [1, 192]",
        ),
        case(
            "lists of different lengths",
            input("data", json!([[1, 2], [3]])),
            "side by side",
        ),
        case(
            "lists beside values",
            input("data", json!([1, [2]])),
            "side by side",
        ),
        case(
            "numbers beside texts",
            input("data", json!([1, "AA=="])),
            "both numbers and texts",
        ),
        case("one number", input("data", json!(0.5)), "expected a list"),
        case("booleans", input("data", json!([true])), "inputs[0].data"),
        case(
            "a value beyond f32",
            input("data", json!(vec![1e39; 192])),
            "not finite at index 0",
        ),
        case("no data", without("data"), "no data"),
        case("texts as FP32", input("data", json!(["AA=="])), "text"),
        case(
            "numbers as BYTES",
            bytes_input(json!([1]), json!([1])),
            "numbers",
        ),
        case(
            "BYTES that are no base64",
            bytes_input(json!([1]), json!(["?"])),
            "not base64",
        ),
        case(
            "BYTES of two dimensions",
            bytes_input(json!([1, 2]), json!(["AA==", "AA=="])),
            "expected [n]",
        ),
        case(
            "fewer BYTES than the shape has",
            bytes_input(json!([2]), json!(["AA=="])),
            "1 elements, but its shape [2] needs 2",
        ),
        case(
            "BYTES that are no image",
            bytes_input(json!([1]), json!(["AAAA"])),
            "image 0",
        )
        .gets(422),
        case(
            "BYTES of a format that is not decoded",
            bytes_input(json!([1]), json!(["SUkqAAgAAAAAAAAAAAAAAA=="])),
            "image 0",
        )
        .gets(415),
        case("an image with too many pixels", png_of(RED, 30), "pixels")
            .with(HEADER_LENGTH, "0")
            .gets(413),
        case(
            "shared memory",
            input("parameters", json!({"shared_memory_region": "a"})),
            "shared_memory_region",
        ),
    ]
}

fn outputs_and_parameters() -> Vec<Case> {
    let classes =
        |classes| outputs(json!([{"name": "logits", "parameters": {"classification": classes}}]));
    vec![
        case(
            "unknown output",
            outputs(json!([{"name": "scores"}])),
            "no output \"scores\"",
        ),
        case(
            "the same output twice",
            outputs(json!([{"name": "logits"}, {"name": "logits"}])),
            "\"logits\" twice",
        ),
        case(
            "outputs that are names",
            outputs(json!(["logits"])),
            "outputs[0]",
        ),
        case(
            "a negative number of classes",
            classes(json!(-1)),
            "classification is -1",
        ),
        case(
            "more classes than there are",
            classes(json!(4)),
            "the model has 3 classes",
        ),
        case(
            "classes as text",
            classes(json!("3")),
            "classification is \"3\"",
        ),
        case(
            "binary_data that is no boolean",
            outputs(json!([{"name": "logits", "parameters": {"binary_data": 1}}])),
            "binary_data is 1",
        ),
        case(
            "output in shared memory",
            outputs(json!([{"name": "logits", "parameters": {"shared_memory_region": "a"}}])),
            "shared_memory_region",
        ),
        case(
            "binary_data_output that is no boolean",
            parameters(json!({"binary_data_output": "yes"})),
            "binary_data_output is \"yes\"",
        ),
        case(
            "a negative timeout",
            parameters(json!({"timeout": -5})),
            "timeout is -5",
        ),
        case(
            "a timeout in words",
            parameters(json!({"timeout": "1s"})),
            "timeout is \"1s\"",
        ),
        case(
            "a timeout of half a microsecond",
            parameters(json!({"timeout": 0.5})),
            "timeout is 0.5",
        ),
        case(
            "a priority below the lowest",
            parameters(json!({"priority": 11})),
            "priority is 11",
        ),
        case(
            "a negative priority",
            parameters(json!({"priority": -1})),
            "priority is -1",
        ),
        case(
            "a sequence",
            parameters(json!({"sequence_id": 7})),
            "sequence_id",
        ),
        case(
            "the start of a sequence",
            parameters(json!({"sequence_start": true})),
            "sequence_start",
        ),
        case(
            "unknown model",
            input("name", json!("input")),
            "no model \"n\"",
        )
        .to("n")
        .gets(404),
        case("unknown version", input("name", json!("input")), "version")
            .to("m/versions/9")
            .gets(404),
        case(
            "a model's name that is no UTF-8",
            input("name", json!("input")),
            "UTF-8",
        )
        .to("%ff")
        .gets(404),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_refused_with_what_is_wrong_and_the_server_lives_on() {
    let server = TestServer::start().await;
    let cases = [
        headers_and_binary_data(),
        json_in_general(),
        tensors(),
        outputs_and_parameters(),
    ];
    let mut wrong = Vec::new();
    for case in cases.iter().flatten() {
        let headers: Vec<(&str, &str)> =
            case.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = post(&server, case.model, &headers, case.body.clone()).await;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        let error = body["error"].as_str().unwrap_or_default();
        if status != case.status || !error.contains(case.words) {
            wrong.push(format!("{}: {status} {error}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.iter().map(Vec::len).sum::<usize>() >= 40);
    let (answer, _) = parts(post(&server, "m", &[], input("name", json!("input"))).await).await;
    assert_eq!(answer["model_name"], "m");
    assert_eq!(server.admitted(), 0);
}
