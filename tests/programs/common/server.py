"""As server.mjs."""

import http.server
import os
import signal
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1.5)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d\n" % os.getpid())


class Server(http.server.ThreadingHTTPServer):
    # Its close waits for the answers that have begun.
    daemon_threads = False


signals = 0


def ended(number, _):
    global signals
    signals += 1
    print(signal.Signals(number).name)
    if signals > 1:
        os._exit(1)
    threading.Thread(target=server.shutdown).start()


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, ended)
signal.signal(signal.SIGINT, ended)
print("serving")
server.serve_forever()
server.server_close()
