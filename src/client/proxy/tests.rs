use std::io::Read;

use super::*;

fn request(text: &str) -> Request {
    match rpc::message(rpc::parse(text.as_bytes()).unwrap()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_are_cut_however_they_come() {
    let (mut lines, mut scratch) = (Lines::new(8), [0; 64]);
    let mut seen = Vec::new();
    for piece in [
        "one\ntw",
        "o\n\n  \nthr",
        "ee\n",
        "a very long",
        " one\nfour\n",
    ] {
        assert!(lines.read(piece.as_bytes(), &mut scratch));
        while let Some(line) = lines.next() {
            seen.push(match line {
                Line::Whole(line) => String::from_utf8(line).unwrap(),
                Line::TooLong => "too long".into(),
            });
        }
    }
    assert_eq!(seen, ["one\n", "two\n", "three\n", "too long", "four\n"]);
    assert!(!lines.read(&b""[..], &mut scratch));
}

#[test]
fn result_is_known_by_its_beginning() {
    let id = |line: &str| id_of_result(line.as_bytes());
    let result = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"id":7}}}}"#);
    assert_eq!(id(&result("1")), Some(1.into()));
    assert_eq!(
        id(&result(r#""a,\"result\":""#)),
        Some(r#"a,"result":"#.into())
    );
    for other in [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31000,"data":{"a":1,"result":2}}}"#,
        r#"{"jsonrpc":"2.0","method":"m","params":{"id":1,"result":2}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#,
        r#"{"jsonrpc":"2.0","id":"#,
    ] {
        assert_eq!(id(other), None, "{other}");
    }
}

#[test]
fn requests_that_change_something_or_wait_for_news_are_not_repeatable() {
    let call = |name: &str, arguments: &str| {
        format!(r#""method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}"#)
    };
    for (yes, message) in [
        (true, r#""method":"tools/list""#.to_string()),
        (true, call("get_status", "{}")),
        (true, call("wait", r#"{"process":"a"}"#)),
        (true, call("wait", r#"{"for":"exit","after":7}"#)),
        (false, call("wait", r#"{"for":"exit"}"#)),
        (false, call("start", "{}")),
        (false, call("no such", "{}")),
        (false, r#""method":"subscriptions/listen""#.into()),
        (false, r#""method":"bpm/shutdown""#.into()),
    ] {
        let request = request(&format!(r#"{{"jsonrpc":"2.0","id":1,{message}}}"#));
        assert_eq!(repeatable(&request), yes, "{message}");
    }
}

struct Nobody;

impl Connect for Nobody {
    fn find(&self) -> Result<Option<Client>> {
        Ok(None)
    }

    fn start(&self, _: &[String]) -> Result<Client> {
        Err(Error::cannot("connect", "nobody is there"))
    }

    fn stopped(&self) -> Option<String> {
        None
    }

    fn offline(&self) -> Result<Offline> {
        Offline::nowhere()
    }

    fn is_this_process(&self) -> bool {
        false
    }
}

fn proxy() -> Proxy {
    let mut proxy = Proxy::new(Arc::new(Nobody)).unwrap();
    proxy.tried = true;
    proxy
}

/// A link to a daemon that is played by the other end.
fn link(proxy: &mut Proxy) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    proxy.linked(ours);
    theirs
}

fn said(mut daemon: &UnixStream) -> String {
    let mut text = String::new();
    let _ = daemon.read_to_string(&mut text);
    text
}

fn answers(proxy: &mut Proxy) -> String {
    String::from_utf8(std::mem::take(&mut proxy.output.unsent)).unwrap()
}

const READ: &str = "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"tools/list\"}\n";
const ORDER: &str =
    "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\",\"params\":{\"name\":\"stop\"}}\n";

#[test]
fn a_cancelled_request_is_not_waited_for() {
    let mut proxy = proxy();
    proxy.take(READ.into());
    assert_eq!((proxy.calls.len(), proxy.queue.len()), (1, 1));
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x"}}"#;
    proxy.take(cancel.into());
    assert!(proxy.calls.is_empty() && proxy.queue.is_empty());
}

#[test]
fn a_lost_daemon_is_followed_by_the_next() {
    let mut proxy = proxy();
    let first = link(&mut proxy);
    proxy.take(READ.into());
    proxy.take(ORDER.into());
    assert_eq!(said(&first), format!("{READ}{ORDER}"));
    drop(first);
    proxy.read_answers();
    // The order may have been executed; what only reads is sent again.
    let told = answers(&mut proxy);
    assert!(
        told.contains("\"id\":7") && told.contains("may or may not"),
        "{told}"
    );
    let mut second = link(&mut proxy);
    assert_eq!(said(&second), READ);
    let answer = b"{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}\n";
    second.write_all(answer).unwrap();
    proxy.read_answers();
    assert_eq!(answers(&mut proxy).as_bytes(), answer);
    assert!(proxy.calls.is_empty());
}

#[test]
fn a_refusal_of_a_stopping_daemon_is_kept_from_the_client() {
    let mut proxy = proxy();
    let mut first = link(&mut proxy);
    proxy.take(ORDER.into());
    said(&first);
    let refusal =
        format!("{{\"id\":7,\"error\":{{\"code\":{STOPPING},\"message\":\"stopping\"}}}}\n");
    first.write_all(refusal.as_bytes()).unwrap();
    proxy.read_answers();
    assert_eq!(answers(&mut proxy), "");
    drop(first);
    proxy.read_answers();
    let second = link(&mut proxy);
    assert_eq!(said(&second), ORDER);
}

#[test]
fn a_new_daemon_hears_the_handshake_first() {
    let mut proxy = proxy();
    let mut first = link(&mut proxy);
    let hello = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-03-26\"}}\n";
    proxy.take(hello.into());
    assert_eq!(said(&first), hello);
    first.write_all(b"{\"id\":1,\"result\":{}}\n").unwrap();
    proxy.read_answers();
    drop(first);
    proxy.read_answers();
    answers(&mut proxy);
    proxy.take(READ.into());
    let mut second = link(&mut proxy);
    let heard = said(&second);
    let (first, rest) = heard.split_once('\n').unwrap();
    assert!(
        first.contains("2025-03-26") && first.contains(OWN_ID),
        "{heard}"
    );
    assert_eq!(rest, READ);
    // Its answer is not the client's.
    let answer = format!("{{\"id\":\"{OWN_ID}\",\"result\":{{}}}}\n");
    second.write_all(answer.as_bytes()).unwrap();
    proxy.read_answers();
    assert_eq!(answers(&mut proxy), "");
}

#[test]
fn a_daemon_that_says_nothing_is_asked_and_then_given_up() {
    let mut proxy = proxy();
    let daemon = link(&mut proxy);
    proxy.take(READ.into());
    said(&daemon);
    let long_ago = Mono::default();
    proxy.link.as_mut().unwrap().heard = long_ago;
    proxy.check_deadlines();
    assert!(said(&daemon).contains("\"ping\""));
    assert!(proxy.deadline().unwrap() > Mono::now());
    proxy.link.as_mut().unwrap().probed = Some(long_ago);
    proxy.check_deadlines();
    let told = answers(&mut proxy);
    assert!(told.contains(SILENT), "{told}");
    assert!(proxy.link.is_none() && proxy.calls.is_empty());
}

#[test]
fn reading_needs_no_daemon_and_a_stop_on_purpose_lasts() {
    let needs = |message: &str, stopped: bool| {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":{message}}}"#);
        let again = asked_again(line.as_bytes()).unwrap();
        let first = Asked {
            again: false,
            ..asked_again(line.as_bytes()).unwrap()
        };
        // An order from before a stop on purpose does not undo it.
        assert_eq!(again.needs(true), None);
        assert_eq!(again.needs(false), first.needs(false));
        first.needs(stopped)
    };
    let call = |name: &str, process: &str| {
        let args = format!(r#"{{"process":"{process}"}}"#);
        format!(r#""tools/call","params":{{"name":"{name}","arguments":{args}}}"#)
    };
    let (all, one) = (Some(Start::All), Some(Start::Only(vec!["web".into()])));
    for method in [
        "initialize",
        "ping",
        "tools/list",
        "resources/read",
        "prompts/get",
    ] {
        assert_eq!(needs(&format!("{method:?}"), false), None, "{method}");
    }
    for (name, process, not_started, stopped) in [
        ("get_status", "web", &all, &None),
        ("search_logs", "web", &all, &None),
        ("wait", "web", &all, &None),
        ("start", "web", &all, &one),
        ("restart", "web", &all, &one),
        ("start", "*", &all, &all),
        ("start", "", &None, &None),
        ("stop", "web", &None, &None),
        ("reload", "", &None, &None),
        ("no such", "", &None, &None),
    ] {
        assert_eq!(&needs(&call(name, process), false), not_started, "{name}");
        assert_eq!(&needs(&call(name, process), true), stopped, "{name}");
    }
}
