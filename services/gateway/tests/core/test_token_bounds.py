"""The bound on tokens holds for what tokenizers made of these texts, and is not so high that budgets become useless."""

import pytest
from gateway.core.token_bounds import most_tokens

MEASURED = [
    ("The water of the reservoir falls through the penstock and turns the turbine, which drives the generator.", 22),
    ("Das Wasser des Stausees fällt durch die Druckrohrleitung und dreht die Turbine daneben.", 30),
    (
        "Vesi putoaa tekojärvestä paineputken läpi ja pyörittää turbiinia, joka käyttää vieressä olevaa generaattoria.",
        46,
    ),
    ("Barajın suyu cebri borudan aşağı düşer ve yanındaki jeneratörü çalıştıran türbini döndürür.", 51),
    ("Nước từ hồ chứa chảy qua ống áp lực và làm quay tuabin, tuabin này dẫn động máy phát điện bên cạnh.", 70),
    (
        "Вода водохранилища падает по напорному трубопроводу и вращает турбину, которая приводит в движение генератор.",
        94,
    ),
    ("Το νερό του ταμιευτήρα πέφτει μέσα από τον αγωγό πτώσης και γυρίζει τον στρόβιλο που κινεί τη γεννήτρια.", 113),
    ("जलाशय का पानी पेनस्टॉक से होकर गिरता है और टरबाइन को घुमाता है, जो पास के जनित्र को चलाता है।", 100),
    ("நீர்த்தேக்கத்தின் நீர் குழாய் வழியாக விழுந்து விசையாழியைச் சுழற்றுகிறது.", 137),
    ("წყალსაცავის წყალი მილსადენში ვარდება და აბრუნებს ტურბინას, რომელიც გენერატორს ამოძრავებს.", 167),
    ("น้ำจากอ่างเก็บน้ำไหลลงผ่านท่อส่งน้ำและหมุนกังหันซึ่งขับเครื่องกำเนิดไฟฟ้าที่อยู่ข้าง ๆ", 155),
    ("저수지의 물이 수압관을 지나 떨어지며 옆에 있는 발전기를 움직이는 터빈을 돌린다.", 70),
    ("貯水池の水は水圧管を通って落ち、隣にある発電機を動かす水車を回す。", 43),
    ("水库的水经压力管道落下,推动水轮机,水轮机再带动旁边的发电机。", 38),
    ('{"turbine": {"id": 7, "plant": "river", "flow_m3_s": 12.5, "open": true, "tags": ["old", "left bank"]}}', 54),
    ("7,12.50,98.1,0.91\n8,11.75,97.6,0.90\n9,0.00,98.1,0.00\n10,12.25,98.0,0.92\n", 73),
    ("https://plant.example/turbines/7/readings?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&step=15m", 66),
    ("WARNING: DO NOT OPEN THE GATE WHILE THE PENSTOCK IS BEING INSPECTED", 24),
    ("💧⚙️🔌🏞️⚡💧⚙️🔌🏞️⚡", 48),
]
"""Texts, and the most tokens that any of the eight tokenizers made of them which `most_tokens` names."""


@pytest.mark.parametrize(("text", "tokens"), MEASURED, ids=[text[:12] for text, _ in MEASURED])
def test_no_tokenizer_made_more_and_the_bound_is_near(text: str, tokens: int) -> None:
    assert tokens <= most_tokens(text.encode()) <= 2.6 * tokens


def test_nothing_a_byte_alone_and_what_is_no_text() -> None:
    assert most_tokens(b"") == 1
    assert most_tokens(b"a") == most_tokens(b"abc") == most_tokens(b"A") == 2
    assert most_tokens(bytes(range(256))) == 256 - 27 + 9 + 1
