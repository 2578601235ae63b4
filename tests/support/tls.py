"""A certificate authority of a test, and a door that speaks TLS before a PostgreSQL that cannot.

The bundled server is built without TLS. As with many managed services, a proxy before it ends the encryption: it
answers PostgreSQL's own request for TLS, as the protocol has it, and passes on what is inside.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_TLS_REQUEST = 80877103
_GSS_REQUEST = 80877104


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, and a certificate of it for this machine's loopback address.

    Attributes:
        certificate: File of the authority's own certificate.
        chain: File of the server's certificate and key.
    """

    certificate: Path
    chain: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        """Both files, in `directory`."""
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {directory.name}")])
        ca = _certificate(ca_name, ca_name, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=0))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "postgres")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        own = _certificate(name, ca_name, key, ca_key, names)
        made = cls(directory / "ca.pem", directory / "server.pem")
        made.certificate.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        made.chain.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + own.public_bytes(serialization.Encoding.PEM)
        )
        return made


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(extension, critical=False)
        .sign(signer, hashes.SHA256())
    )


@contextlib.contextmanager
def tls_door(authority: Authority, server_port: int) -> Iterator[int]:
    """A loopback port behind which the server's own is reached with TLS, and only with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.chain)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closing = threading.Event()

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                if closing.is_set():
                    client.close()
                    return
                threading.Thread(target=_serve, args=(client, context, server_port), daemon=True).start()

        thread = threading.Thread(target=accept, name="tls-door")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            closing.set()
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), 1).close()
            thread.join()


def _serve(client: socket.socket, context: ssl.SSLContext, server_port: int) -> None:
    # Clients and servers go away in the middle of anything: then this connection is over, and nothing else.
    with client, contextlib.suppress(OSError):
        while (request := struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))[1]) == _GSS_REQUEST:
            client.sendall(b"N")
        if request != _TLS_REQUEST:
            return
        client.sendall(b"S")
        with (
            context.wrap_socket(client, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", server_port), 5) as server,
        ):
            server.settimeout(None)
            _pump(inside, server)


def _pump(client: ssl.SSLSocket, server: socket.socket) -> None:
    other: dict[socket.socket, socket.socket] = {client: server, server: client}
    while True:
        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)
