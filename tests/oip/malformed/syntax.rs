//! JSON that is none, or is not what is expected.

use super::*;

pub(super) fn cases() -> Vec<Case> {
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
