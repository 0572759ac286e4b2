"""Where a PACS may be, and where credentials come from."""

from collections.abc import Callable

import pytest
from coronanet.model.errors import UsageError
from coronanet.serving.pacs.address import PASSWORD, USER, parse_address
from coronanet.serving.pacs.request import PacsRequest

Credentials = Callable[[str, str], None]


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://pacs.example/dicom-web/", "pacs.example", 443, "/dicom-web"),
        ("https://pacs.example:8443", "pacs.example", 8443, ""),
        ("http://127.0.0.1:8042/dicom-web", "127.0.0.1", 8042, "/dicom-web"),
        ("http://localhost/x", "localhost", 80, "/x"),
        ("http://[::1]:9/x", "::1", 9, "/x"),
        ("https://bücher.example/röntgen/a%20b", "xn--bcher-kva.example", 443, "/r%C3%B6ntgen/a%20b"),
        ("https://pacs.example/\udcff", "pacs.example", 443, "/%FF"),
    ],
)
def test_an_address_is_the_root_of_dicomweb(
    credentials: Credentials, url: str, host: str, port: int, path: str
) -> None:
    address = parse_address(url)
    assert (address.host, address.port, address.path) == (host, port, path)
    assert address.authorisation is None


@pytest.mark.parametrize(
    "url", ["pacs.example", "ftp://pacs.example", "https://", "https://a:b:c", "https://a/x?y=1", "https://a/#b", ""]
)
def test_what_is_no_address_is_refused_without_showing_it(credentials: Credentials, url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a PACS"):
        parse_address(url)


@pytest.mark.parametrize("host", ["\udcff.example", "a..example", f"{'x' * 70}.example"])
def test_what_can_be_no_host_is_refused_without_showing_it(credentials: Credentials, host: str) -> None:
    with pytest.raises(UsageError, match="holds a host that no name can be") as caught:
        parse_address(f"https://{host}/dicom-web")
    assert host not in str(caught.value)


@pytest.mark.parametrize("uid", ["\uff11.\uff12", "1.2.ü", "1.2.\udcff"])
@pytest.mark.parametrize("option", ["study", "series"])
def test_uids_of_other_alphabets_are_refused(credentials: Credentials, option: str, uid: str) -> None:
    given = {"study": None, "series": None} | {option: uid}
    with pytest.raises(UsageError, match=f"--{option} is no UID"):
        PacsRequest(parse_address("https://pacs.example"), **given)


def test_a_password_in_the_address_is_refused_and_not_shown(credentials: Credentials) -> None:
    with pytest.raises(UsageError, match=USER) as caught:
        parse_address("https://radiology:hunter2@pacs.example/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["pacs.example", "10.0.0.5", "127.0.0.1.example"])
def test_plain_http_stays_on_this_machine_unless_it_is_allowed(credentials: Credentials, host: str) -> None:
    with pytest.raises(UsageError, match="--allow-http"):
        parse_address(f"http://{host}/dicom-web")
    assert not parse_address(f"http://{host}/dicom-web", allow_http=True).encrypted


def test_credentials_come_from_the_environment_and_are_not_in_what_is_printed(credentials: Credentials) -> None:
    credentials("radiology", "hunter2")
    address = parse_address("https://pacs.example")
    assert address.authorisation == "Basic cmFkaW9sb2d5Omh1bnRlcjI="
    assert "cmFk" not in repr(address) + str(address)


@pytest.mark.parametrize("only", [("radiology", ""), ("", "hunter2")])
def test_half_of_the_credentials_is_refused(credentials: Credentials, only: tuple[str, str]) -> None:
    credentials(*only)
    with pytest.raises(UsageError, match=f"only one of {USER} and {PASSWORD}"):
        parse_address("https://pacs.example")


@pytest.mark.parametrize(
    ("study", "series", "message"),
    [
        (None, None, "pass --study UID"),
        (None, "2", "pass --study UID"),
        ("1.2/../3", None, "--study is no UID"),
        ("1." * 40 + "1", None, "--study is no UID"),
        (None, "1.2?x", "--series is no UID"),
        ("1.2", "1.2 3", "--series is no UID"),
    ],
)
def test_a_request_names_what_to_fetch(
    credentials: Credentials, study: str | None, series: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        PacsRequest(parse_address("https://pacs.example"), study, series)
