"""Options of a config.json that have no effect on what a model computes, with the reasons."""

from __future__ import annotations

_REASONS = {
    "how transformers loads, runs or saves the model": (
        "architectures model_type transformers_version torch_dtype dtype use_cache torchscript use_bfloat16 gradient_checkpointing"
        " chunk_size_feed_forward attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal"
        " experts_implementation _experts_implementation _flash_attn_2_enabled use_return_dict return_dict tf_legacy_loss tokenizer_class"
        " is_encoder_decoder tie_encoder_decoder pretraining_tp reorder_and_upcast_attn xla_device"
    ),
    "origin of the file": (
        "_name_or_path name_or_path _commit_hash finetuning_task task_specific_params unsloth_fixed unsloth_version"
        " is_llama_config transformers.js_config sentence_transformers"
    ),
    "what a call returns besides the logits": (
        "output_attentions output_hidden_states output_past output_scores output_logits return_dict_in_generate keys_to_ignore_at_inference"
    ),
    "a default of generation": (
        "max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty"
        " temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty"
        " no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences remove_invalid_values exponential_decay_length_penalty"
        " suppress_tokens begin_suppress_tokens bad_words_ids renormalize_logits sequence_bias penalty_alpha guidance_scale max_time"
        " cache_implementation prefix _from_model_config"
    ),
    "the id of a special token": (
        "bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id"
        " forced_bos_token_id forced_eos_token_id"
    ),
    "for a classification head, which reads it if there is one": "id2label label2id num_labels _num_labels problem_type",
    "dropout rate or initialisation for training": (
        "initializer_factor classifier_dropout classifier_dropout_prob classif_dropout seq_classif_dropout qa_dropout ignore_index neftune_noise_alpha"
    ),
    "written by the first version of transformers and never read": (
        "n_special predict_special_tokens n_ctx tie_weights_ sinusoidal_pos_embds max_sequence_length"
    ),
    "for the multiple-choice head of GPT-2": (
        "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout summary_last_dropout"
    ),
    "from the original code of BERT, not read by transformers": (
        "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type"
    ),
    "from the original code of ALBERT, not read by transformers": (
        "net_structure_type layers_to_keep gap_size num_memory_blocks down_scale_factor"
    ),
    "from the first release of Gemma 2, not read by transformers, which reads sliding_window": "sliding_window_size",
    "from the training of published BARTs, not read by transformers": (
        "force_bos_token_to_be_generated replacing_rate save_step student_encoder_layers student_decoder_layers kobart_version author"
    ),
    "from the distillation of TinyBERT": "cell emb_size pre_trained structure training",
}

NEUTRAL: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Option -> why it has no effect. A family may still read one of them: RoBERTa reads the padding id."""
