"""chp/config/certificate.py: when a certificate ends, and whether its files have changed."""

import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from chp.config.certificate import stamp, valid_until


def not_after(path):
    """Ask openssl."""
    command = ["openssl", "x509", "-in", path, "-noout", "-enddate"]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return datetime.strptime(line, "notAfter=%b %d %H:%M:%S %Y %Z").replace(tzinfo=timezone.utc)


def test_valid_until(pki):
    for path in (pki.cert, pki.client_cert, pki.ca):
        assert valid_until(Path(path).read_text()) == not_after(path)


def test_the_first_certificate_of_a_chain_counts(pki):
    text = "a comment\n" + Path(pki.cert).read_text() + Path(pki.ca).read_text()
    assert valid_until(text) == not_after(pki.cert)


def test_a_certificate_of_the_second_half_of_the_century(pki, tmp_path):
    path = str(tmp_path / "late.pem")
    command = ["openssl", "req", "-x509", "-key", pki.key, "-out", path, "-subj", "/CN=x", "-days", "20000"]
    subprocess.run(command, check=True, capture_output=True)
    assert valid_until(Path(path).read_text()) == not_after(path)
    assert valid_until(Path(path).read_text()).year > 2050


@pytest.mark.parametrize("size", [0, 1, 5, 40, 100, 200])
def test_a_certificate_that_is_cut_off(pki, size):
    begin = "-----BEGIN CERTIFICATE-----\n"
    text = Path(pki.cert).read_text().partition(begin)[2].replace("\n", "")[:size]
    with pytest.raises(ValueError):  # noqa: PT011 - of several libraries
        valid_until(f"{begin}{text}\n-----END CERTIFICATE-----\n")


def test_no_certificate():
    with pytest.raises(ValueError):  # noqa: PT011 - of several libraries
        valid_until("nothing of the kind")


def test_stamps(tmp_path):
    file = tmp_path / "cert"
    missing = stamp([str(file)])
    file.write_text("one")
    seen = [missing, stamp([str(file)])]

    def changed():
        seen.append(stamp([str(file)]))
        return seen[-1] not in seen[:-1]

    assert not changed()
    seen.pop()
    os.utime(file, ns=(0, 0))  # written again
    assert changed()
    new = tmp_path / "new"
    new.write_text("two")
    os.utime(new, ns=(0, 0))
    os.replace(new, file)  # renamed over it, with the same time and size
    assert changed()


def test_stamps_follow_links(tmp_path):
    """As Kubernetes keeps a secret: ..data is a link to a directory with a date, and is replaced."""
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.crt").write_text("same")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    before = stamp([str(tmp_path / "tls.crt")])
    assert stamp([str(tmp_path / "tls.crt")]) == before
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert stamp([str(tmp_path / "tls.crt")]) != before
