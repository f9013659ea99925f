"""A log server that keeps what it is sent: recorder.py KIND ADDRESS FILE [CERTIFICATE KEY].

KIND is udp, tcp, tls, unixgram, http (which answers each request with {}), fluentd (which acknowledges each message) or deaf
(which accepts and never reads). ADDRESS is a port of 127.0.0.1 or a path. FILE gets the bytes as they come."""

import os
import re
import socket
import ssl
import sys
import threading

kind, address, file = sys.argv[1:4]
output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def keep(data):
    os.write(output, data)


def serve(connection):
    if kind == "deaf":
        threading.Event().wait()
    if kind == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[4], sys.argv[5])
        try:
            connection = context.wrap_socket(connection, server_side=True)
        except ssl.SSLError:
            return
    if kind == "http":
        return serve_http(connection)
    while data := connection.recv(65536):
        keep(data)
        if kind == "fluentd":
            # The chunk's name is the last string of a message: 24 characters of base64.
            for chunk in re.findall(rb"\xa5chunk\xb8([A-Za-z0-9+/=]{24})", data):
                connection.sendall(b"\x81\xa3ack\xb8" + chunk)


def serve_http(connection):
    stream = connection.makefile("rb")
    while line := stream.readline():
        length = 0
        head = line
        while (line := stream.readline()).strip():
            head += line
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        keep(head + b"\r\n" + stream.read(length) + b"\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\r\n{}")


if kind in ("udp", "unixgram"):
    family = socket.AF_INET if kind == "udp" else socket.AF_UNIX
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", int(address)) if kind == "udp" else address)
    print("ready", flush=True)
    while True:
        # One datagram, as long as it says.
        data = server.recv(65536)
        keep(len(data).to_bytes(4, "big") + data)
server = socket.create_server(("127.0.0.1", int(address)))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
