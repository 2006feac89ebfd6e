# The names that we use. The module itself imports all models of transformers, which takes pyright half a minute.

from transformers.models.clip.configuration_clip import CLIPTextConfig as CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel as CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer as CLIPTokenizer
from transformers.models.t5.configuration_t5 import T5Config as T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel as T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

T5TokenizerFast = T5Tokenizer
