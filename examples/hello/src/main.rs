//! A web server of a few lines: change the greeting, have it restarted, ask it again.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("serving http://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        if let Err(e) = stream.and_then(answer) {
            eprintln!("error: {e}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut request = String::new();
    BufReader::new(&stream).read_line(&mut request)?;
    println!("asked {}", request.trim_end());
    let body = "Hello!\n";
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}\r\n{body}")
}
