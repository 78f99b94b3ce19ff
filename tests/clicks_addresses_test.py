"""Nothing private of an address is kept, and what is no secret is."""

import pytest
from lumos_jax.data_prep.clicks import addresses

# What must not be left of an address, and addresses that hold it.
PRIVATE = [
  ("joe", "https://shop.example/u/joe%40mail.example/cart"),
  ("joe", "https://shop.example/u/joe%2540mail.example/cart"),
  ("joe", "https://shop.example/u/joe%25252540mail.example/cart"),
  ("joe", "https://joe:pass@shop.example/cart"),
  ("joe", "mailto:joe@mail.example"),
  ("joe", "https://shop.example/cart?email=joe@mail.example"),
  ("joe", "https://shop.example/cart#email=joe@mail.example"),
  ("joe", "https://shop.example/go/https%3A%2F%2Fx.example%2F%3Fuser%3Djoe"),
  ("joe", "https://shop.example/go/https%253A%252F%252Fjoe.example%252Fa"),
  ("joe", "https://shop.example/a;user=joe/b"),
  ("joe", "https://shop.example/a%3Buser%3Djoe/b"),
  ("joe", "https://shop.example/a/joe&#64;mail.example"),
  ("joe", "https://shop.example/a/joe%EF%BC%A0mail.example"),  # A wide @.
  ("joe", "https://shop.example/a/joe\\u0040mail.example"),
  ("joe", "//joe@shop.example/a"),
  ("1111", "https://shop.example/pay/4111111111111111/done"),
  ("1111", "https://shop.example/pay/4111-1111-1111-1111"),
  ("1111", "https://shop.example/pay/4111%201111%201111%201111"),
  ("5550", "https://shop.example/call/+1-202-555-0178"),
  (
    "eyJ",
    "https://shop.example/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.SflKxwRJSM",
  ),
  ("3fa85", "https://shop.example/r/3fa85f64-5717-4562-b3fc-2c963f66afa6"),
  ("9f86d", "https://shop.example/r/9f86d081884c7d659a2feaa0c55ad015"),
  ("x7Kp", "https://shop.example/reset/x7Kp92mNqR4tVw8zB3cY"),
  ("192.0", "https://shop.example/from/192.0.2.17"),
  ("2001", "https://shop.example/from/2001:db8:85a3:0:0:8a2e:370:7334"),
]


@pytest.mark.parametrize("secret,url", PRIVATE)
def test_what_is_private_is_masked(secret, url):
  cleaner = addresses.Cleaner()
  found = "/".join(cleaner.address(url))
  assert secret not in found, found
  assert secret not in cleaner.text(url.split("/", 3)[-1].split("?")[0]) or (
    "?" in url or "#" in url or ";" in url or "%3B" in url or "//" in url[:9]
  )


@pytest.mark.parametrize(
  "url,page",
  [
    ("https://Shop.Example/Women/Shoes/", ("shop.example", "Women", "Shoes")),
    ("shop/p/12345678?ref=a&page=2", ("", "shop", "p", "12345678")),
    ("https://x.example/z%C3%BCrich%20oper", ("x.example", "zürich oper")),
    (
      "https://x.example/how-to-write-a-long-letter-in-2024",
      ("x.example", "how-to-write-a-long-letter-in-2024"),
    ),
    ("https://x.example:443//a/./b", ("x.example", "a", "b")),
    ("/", ("",)),
    ("http://[broken/a", ("[broken", "a")),
  ],
)
def test_what_is_no_secret_stays(url, page):
  assert addresses.Cleaner().address(url) == page


def test_keys_of_the_query_are_kept_where_a_list_allows_them():
  cleaner = addresses.Cleaner(["category", "q"])
  url = "https://x.example/s?sid=77&category=red+shoes&q=joe%40mail.example"
  assert cleaner.address(url) == (
    "x.example",
    "s",
    "?category=red shoes&q={email}",
  )
  assert cleaner.counts == {"query keys dropped": 1, "{email} masked": 1}
  assert cleaner.address("  ") is None and cleaner.address(None) is None


def test_titles_and_patterns_of_ones_own():
  cleaner = addresses.Cleaner(patterns=[r"(?<=Hello )\w+"])
  assert (
    cleaner.text("Hello Joe,\n\x00your  order") == "Hello {masked}, your order"
  )
  assert cleaner.text("Inbox (3) - joe@mail.example") == "Inbox (3) - {email}"
  with pytest.raises(ValueError, match="no regular expression"):
    addresses.Cleaner(patterns=["("])


def test_a_card_number_has_its_check_digit():
  assert addresses.is_card("4111 1111 1111 1111")
  assert not addresses.is_card("4111 1111 1111 1112")
  assert not addresses.is_card("0")


def test_tokens_are_found_as_a_whole():
  import random
  import string

  clean = addresses.Cleaner().text
  for token in (
    "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "AKIAIOSFODNN7EXAMPLE",
  ):
    assert clean(token) == "{token}"
  rng = random.Random(0)
  drawn = lambda more, n: "".join(
    rng.choices(string.ascii_letters + string.digits + more, k=n)
  )
  for more, n, most in (("", 16, 0.05), ("-_", 22, 0.06), ("-_", 32, 0.01)):
    whole = [t for t in (drawn(more, n) for _ in range(500)) if clean(t) == t]
    assert len(whole) <= most * 500
  for words in (
    "iPhone-15-Pro-Max-256GB-Blue",
    "MacBook-Pro-M3-16GB-512GB-SSD",
    "how-to-buy-2-things-in-2024",
  ):
    assert clean(words) == words


def test_what_is_private_has_many_spellings():
  cleaner = addresses.Cleaner(["q"], [r"\d+"])
  for text in (
    "joe123@b.example",
    "{joe.secret}@mail.example",
    "joe%7D@b.example",
    "joe%u0040b.example",
    "joe&#0064;b.example",
    "joe&%2364;b.example",
  ):
    assert cleaner.text(text) == "{email}"
    assert cleaner.address(f"https://h/{text}") == ("h", "{email}")
  assert cleaner.text("4111_1111_1111_1111") == "{card}"
  address = addresses.Cleaner(["q"]).address
  assert address("https://h/4111/1111/1111/1111/x") == ("h", "{card}", "x")
  assert address("https://h/2024/05/31/12") == ("h", "2024", "05", "31", "12")
  assert address("https://h/x&email=joe&token=SECRET12") == ("h", "x")
  assert address("https://h/a&b") == ("h", "a&b")
  assert address("https://h/?q=a?token=SEC1") == ("h", "?q=a")
  assert address("https://h/?q=/p/x?email=joe") == ("h", "?q=/p/x")
