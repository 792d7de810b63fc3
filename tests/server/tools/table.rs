//! The table of tools and the check of arguments.

use bpm::engine::handle::{Reloaded, Reply};
use bpm::server::service::Service;
use serde_json::Value;
use serde_json::json;

use super::stage::*;

#[test]
fn the_table_of_tools_is_well_formed_and_small() {
    let stage = Stage::new(vec![unit("web")]);
    let list = stage.tools.tools();
    let text = list.to_string();
    // Some clients write a blank after each colon and comma.
    let size = text.chars().count() + blanks(list);
    assert!(size < 16_000, "{size}");
    let other = Stage::new(vec![unit("api")]);
    assert_eq!(text, other.tools.tools().to_string());

    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "search_logs",
            "search_build_log",
            "restart",
            "get_status",
            "start",
            "stop",
            "wait",
            "get_errors",
            "reload"
        ]
    );
    for tool in list.as_array().unwrap() {
        let name = &tool["name"];
        for key in ["title", "description"] {
            assert!(!tool[key].as_str().unwrap().is_empty(), "{name}: {key}");
        }
        let input = &tool["inputSchema"];
        assert_eq!(input["type"], "object");
        assert_eq!(input["additionalProperties"], false);
        for (argument, schema) in input["properties"].as_object().unwrap() {
            assert!(schema["type"].is_string(), "{name}.{argument}");
            let text = schema["description"].as_str().unwrap();
            let required = input["required"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(argument)));
            assert!(
                required || text.contains("efault"),
                "{name}.{argument} does not state its default: {text}"
            );
        }
        for hint in [
            "readOnlyHint",
            "destructiveHint",
            "idempotentHint",
            "openWorldHint",
        ] {
            assert!(tool["annotations"][hint].is_boolean(), "{name}: {hint}");
        }
        if let Some(output) = tool.get("outputSchema") {
            assert_eq!(output["type"], "object");
            single_types(output);
        }
    }
    assert!(stage.tools.instructions().chars().count() <= 1_200);
    assert!(
        stage
            .tools
            .call(&agent(), "no_such", &json!({}), None)
            .is_none()
    );
}

/// Colons and commas.
fn blanks(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            (2 * map.len()).saturating_sub(1) + map.values().map(blanks).sum::<usize>()
        }
        Value::Array(list) => list.len().saturating_sub(1) + list.iter().map(blanks).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// No list of types, and no schema without a word in it.
fn single_types(schema: &Value) {
    assert!(schema.as_object().is_some_and(|map| !map.is_empty()));
    assert!(schema.get("type").is_none_or(Value::is_string), "{schema}");
    let properties = schema["properties"].as_object();
    for (_, inner) in properties.into_iter().flatten() {
        single_types(inner);
    }
    if let Some(items) = schema.get("items") {
        single_types(items);
    }
}

#[test]
fn every_wrong_argument_of_every_tool_is_told() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    for tool in stage.tools.tools().as_array().unwrap() {
        let name = tool["name"].as_str().unwrap();
        let input = &tool["inputSchema"];
        let required = input["required"].as_array().cloned().unwrap_or_default();
        let mut base = json!({});
        for argument in &required {
            let text = stage.fail(name, json!({}));
            assert!(text.contains(&argument.to_string()), "{text}");
            assert!(text.contains("web, api"), "{text}");
            base[argument.as_str().unwrap()] = "web".into();
        }
        let with = |argument: &str, value: Value| {
            let mut args = base.clone();
            args[argument] = value;
            stage.fail(name, args)
        };
        let text = with("proces", json!("x"));
        assert!(text.contains("unknown argument \"proces\""), "{text}");
        for (argument, schema) in input["properties"].as_object().unwrap() {
            for wrong in [
                json!([]),
                json!({"a": 1}),
                json!(1.5),
                json!("x"),
                json!(true),
            ] {
                let fits = match schema["type"].as_str().unwrap() {
                    "string" => wrong.is_string() && schema.get("enum").is_none(),
                    "boolean" => wrong.is_boolean(),
                    "integer" => false,
                    "number" => wrong.is_number(),
                    other => panic!("{other}"),
                };
                let process = argument == "process" || argument == "since";
                if fits && !process {
                    continue;
                }
                let text = with(argument, wrong);
                assert!(
                    text.contains(&format!("\"{argument}\"")) || text.contains(argument.as_str()),
                    "{name}.{argument}: {text}"
                );
            }
            for (bound, step) in [("minimum", -1), ("maximum", 1)] {
                if let Some(edge) = schema[bound].as_i64() {
                    let text = with(argument, json!(edge + step));
                    assert!(
                        text.contains("number") && text.contains("not the number"),
                        "{text}"
                    );
                }
            }
        }
        for args in [json!([]), json!("x"), json!(3)] {
            assert!(stage.fail(name, args).contains("must be an object"));
        }
    }
}

#[test]
fn an_unknown_process_is_answered_with_the_nearest() {
    let stage = Stage::new(vec![unit("api"), unit("web")]);
    let tools = stage.tools.tools().as_array().unwrap();
    let of_process = |tool: &&Value| tool["inputSchema"]["properties"]["process"].is_object();
    for tool in tools.iter().filter(of_process) {
        assert_eq!(
            stage.fail(tool["name"].as_str().unwrap(), json!({"process": "wbe"})),
            "unknown process \"wbe\"; did you mean \"web\"? processes: api, web"
        );
    }
    let long = stage.fail("restart", json!({"process": "x".repeat(100_000)}));
    assert!(long.len() < 500, "{}", long.len());
    // Only where it says so is a star a name.
    assert!(
        stage
            .fail("wait", json!({"process": "*"}))
            .contains("unknown process")
    );
}

/// A project may have hundreds of processes, and an answer 10,000 characters.
#[test]
fn of_very_many_processes_the_first_are_named() {
    let names: Vec<String> = (0..400)
        .map(|i| format!("{i:04}-{}", "x".repeat(50)))
        .collect();
    let stage = Stage::new(names.iter().map(|name| unit(name)).collect());
    let all = ["0000-", "0001-", " and 365 more"];
    for args in [
        json!({}),
        json!({"process": "web"}),
        json!({"process": 1, "a": 1}),
    ] {
        let text = stage.fail("restart", args);
        assert!(text.chars().count() <= 10_000, "{}", text.len());
    }
    let text = stage.fail("restart", json!({"process": "web"}));
    assert!(all.iter().all(|part| text.contains(part)), "{text}");
    let done = Reloaded {
        unchanged: names,
        ..Reloaded::default()
    };
    let (_, answer) = stage.order("reload", json!({}), Reply::Reload(done));
    let (value, text) = stage.checked("reload", answer);
    assert_eq!(value["unchanged"].as_array().unwrap().len(), 400);
    assert!(text.chars().count() <= 10_000, "{}", text.len());
    assert!(all.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn arguments_that_are_null_are_as_good_as_absent() {
    let stage = Stage::new(vec![unit("web")]);
    print(&stage.handle.snapshot.now().units[0].log, 3);
    let args = json!({"process": "web", "pattern": null, "tail": 2.0, "head": null});
    assert!(
        stage
            .text("search_logs", args)
            .starts_with("line 2\nline 3\n")
    );
    assert!(
        stage
            .fail("search_logs", json!({"process": null}))
            .contains("needs \"process\"")
    );
}

#[test]
fn a_hundred_thousand_wrong_arguments_are_no_work() {
    let stage = Stage::new(vec![unit("web")]);
    let args: Value = (0..100_000)
        .map(|i| (format!("strange-{i}"), json!("x".repeat(10))))
        .collect();
    let text = stage.fail("restart", args);
    assert_eq!(text.lines().count(), 11);
    let long = stage.fail(
        "wait",
        json!({"process": "web", "for": "ready".repeat(100_000)}),
    );
    assert!(long.len() < 400, "{}", long.len());
}
