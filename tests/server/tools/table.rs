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
    let size = text.chars().count() + blanks(&list);
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
        assert!(tool.get("outputSchema").is_none(), "{name}");
        let destroys = tool["annotations"]["destructiveHint"] == true;
        assert_eq!(destroys, name == "stop", "{name}");
        let always = ["get_status", "restart", "wait", "search_logs", "get_errors"];
        let loaded = tool["_meta"]["anthropic/alwaysLoad"] == true;
        assert_eq!(loaded, always.contains(&name.as_str().unwrap()), "{name}");
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
        let near = if name == "reload" { "dryrun" } else { "proces" };
        let text = with(near, json!("x"));
        assert!(
            text.contains(&format!("unknown argument {near:?}")),
            "{text}"
        );
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
                let read = matches!(
                    schema["type"].as_str().unwrap(),
                    "integer" | "number" | "boolean"
                );
                let process = argument == "process" || argument == "since";
                if read && wrong == "x" {
                    assert!(with(argument, wrong).contains("not the text \"x\""));
                    continue;
                }
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
        for args in [json!([1]), json!("x"), json!(3)] {
            assert!(stage.fail(name, args).contains("must be an object"));
        }
    }
}

#[test]
fn an_unknown_process_is_answered_with_the_nearest() {
    let stage = Stage::new(vec![unit("api"), unit("web")]);
    let tools = stage.tools.tools();
    let of_process = |tool: &&Value| tool["inputSchema"]["properties"]["process"].is_object();
    for tool in tools.as_array().unwrap().iter().filter(of_process) {
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
fn error_about_many_processes_names_the_first() {
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
            .starts_with("   line 2\n   line 3\n")
    );
    assert!(
        stage
            .fail("search_logs", json!({"process": null}))
            .contains("needs \"process\"")
    );
}

/// Models fill in every optional argument, and clients add some of their own.
#[test]
fn arguments_are_read_as_they_are_meant() {
    let stage = Stage::new(vec![unit("web"), unit("api")]);
    print(&stage.handle.snapshot.now().units[0].log, 3);
    let args = json!({
        "process": "web", "tail": "2", "literal": "true", "pattern": "line", "since": "", "head": "",
        "index": "-1", "stream": "", "format": null, "wait_for_previous": true
    });
    let text = stage.text("search_logs", args.clone());
    assert!(text.starts_with(" * line 2\n * line 3\n[run"), "{text}");
    assert_eq!(
        stage.tools.ignored("search_logs", &args),
        ["wait_for_previous"]
    );
    let near = json!({"process": "web", "patern": "x"});
    assert!(stage.tools.ignored("search_logs", &near).is_empty());
    let why = stage.fail("search_logs", near);
    assert!(why.contains("did you mean \"pattern\"?"), "{why}");
    let why = stage.fail("search_logs", json!({"process": "web", "tail": "two"}));
    assert!(why.contains("not the text \"two\""), "{why}");

    for all in [
        json!({}),
        json!({"process": "*"}),
        json!({"process": ""}),
        json!([]),
        json!(""),
        json!(null),
    ] {
        let value = stage.data("get_status", all.clone());
        assert_eq!(value["processes"].as_array().unwrap().len(), 2, "{all}");
        let value = stage.data("get_errors", all);
        assert!(value.get("process").is_none());
    }
    for tool in ["restart", "start", "stop", "wait", "search_logs"] {
        let why = stage.fail(tool, json!({"process": ""}));
        assert!(why.contains("needs \"process\""), "{tool}: {why}");
    }
    for tool in ["wait", "search_build_log"] {
        let why = stage.fail(tool, json!({"process": "*"}));
        assert!(why.contains("unknown process \"*\""), "{tool}: {why}");
    }
}

#[test]
fn a_hundred_thousand_wrong_arguments_are_no_work() {
    let stage = Stage::new(vec![unit("web")]);
    let args: Value = (0..100_000)
        .map(|i| (format!("strange-{i}"), json!("x".repeat(10))))
        .collect();
    let text = stage.fail("restart", args.clone());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(stage.tools.ignored("restart", &args).len(), 10);
    let long = stage.fail(
        "wait",
        json!({"process": "web", "for": "ready".repeat(100_000)}),
    );
    assert!(long.len() < 400, "{}", long.len());
}
