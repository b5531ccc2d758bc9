import pytest
import torch
import torch.nn.functional as F

from dcal_lite.attention import attend, attention_map, merge_heads, split_heads
from tests.oracles import attention_by_loops


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, n, 4, generator=generator, dtype=torch.float64) for n in (5, 7, 7)]


def test_map_equals_loops_and_rows_sum_to_one(qkv):
    query, key, _ = qkv
    computed = attention_map(query, key)
    torch.testing.assert_close(computed, attention_by_loops(query, key))
    torch.testing.assert_close(computed.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))


def test_map_times_values_equals_fused(qkv):
    query, key, value = qkv
    torch.testing.assert_close(attend(query, key, value), attention_map(query, key) @ value)
    torch.testing.assert_close(attend(query, key, value), F.scaled_dot_product_attention(query, key, value))


def test_scale_replaces_the_square_root(qkv):
    query, key, _ = qkv
    torch.testing.assert_close(attention_map(query, key, scale=1.0), attention_map(2 * query, key))  # sqrt(4) = 2


def test_heads_split_as_timm_does_and_merge_back():
    tokens = torch.arange(2 * 3 * 8, dtype=torch.float64).reshape(2, 3, 8)
    split = split_heads(tokens, 2)
    torch.testing.assert_close(split, tokens.reshape(2, 3, 2, 4).transpose(1, 2))
    torch.testing.assert_close(merge_heads(split), tokens)
    with pytest.raises(ValueError, match="divisible by 3 heads"):
        split_heads(tokens, 3)
